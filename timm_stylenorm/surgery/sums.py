"""What a forward pass adds up in residual blocks: main branch, shortcut, and their sum.

    residual    what the main branch adds: the output of its last norm layer, before attention, gating or stochastic
                depth that may follow; of a branch that ends without a norm (pre-activation), of its last convolution
    identity    what the shortcut adds: the output of its projection, or, in a block that has an empty place for one,
                the block's input
    pre         the block's input on the main branch alone: the input of its first module that the shortcut has not, too
    sum         the sum, before the activation that follows it; after a block that has none

The names of children matter little: the tensors that are added tell which modules have produced them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.overrides import TorchFunctionMode

from .structure import NORMS, SHORTCUTS, Named

PARTS = ('residual', 'identity', 'pre', 'sum')
_ADDS = {'add', 'add_', '__add__', '__iadd__', '__radd__'}


class Slot(nn.Identity):
    """Fills the empty place of a block's projection while a layer follows its shortcut."""


class Spot(NamedTuple):
    """A place in a block.

    Attributes:
        name: Name of the module within the block; '' for the block itself.
        where: 'after' or 'before' it.
        calls: How often the block calls it; the last call counts.
        empty: The module does not exist yet, but there is a place for it.
    """

    name: str
    where: str = 'after'
    calls: int = 1
    empty: bool = False


Parts = dict[str, Spot | str]  # a string says why there is no such place


@dataclass
class _Call:
    """A module's call: numbers of the tensors that it took and returned, and when it began and ended."""

    name: str
    module: nn.Module
    took: int
    began: int
    gave: int = -1
    ended: int = -1

    @property
    def atom(self) -> bool:
        parts = [name for name, _ in self.module.named_children() if name != 'style']
        return isinstance(self.module, (*NORMS, _ConvNd)) or not parts


@dataclass
class _Pass:
    """The first forward pass of a block.

    Attributes:
        took: Number of its input tensor.
        gave: Number of the tensor that it returned.
        calls: Calls of modules within it, in the order in which they ended.
        sums: Additions in its own forward: the numbers of both operands and of the result, and the time.
    """

    took: int
    gave: int = -1
    calls: list[_Call] = field(default_factory=list)
    sums: list[tuple[int, int, int, int]] = field(default_factory=list)

    def parts(self) -> Parts:
        """Where the parts are; empty for a block without a residual sum."""
        rows = [(total, when, *self._branches(a, b, when)) for a, b, total, when in self.sums]
        residual = [row for row in rows if row[2]]
        if not residual:
            return {}
        total, when, main, shortcut = residual[-1]
        if len(residual) > 1 or rows[-1] is not residual[-1]:
            return dict.fromkeys(PARTS, f'has {len(rows)} sums, none of a whole branch and a shortcut; name modules')
        ends = [call.name for call in self.calls if shortcut and call.gave == shortcut[-1].gave and call.ended < when]
        return {
            'residual': self._residual(main),
            'identity': Spot(ends[-1]) if ends else 'adds its own input, and has no module or place for one there',
            'pre': self._pre(shortcut, when),
            'sum': self._sum(total, when),
        }

    def adds_what_comes_through(self, slot: str) -> bool:
        """Whether the module of this name got the block's input, and its output is an operand of the sum."""
        calls = [call for call in self.calls if call.name == slot]
        if len(calls) != 1 or calls[0].took != self.took or not self.sums:
            return False
        return calls[0].gave in self.sums[-1][:2]

    def _path(self, tensor: int, when: int) -> tuple[list[_Call], bool]:
        """The calls that have produced a tensor, and whether they begin at the block's input."""
        path: list[_Call] = []
        while tensor != self.took:
            makers = [call for call in self.calls if call.gave == tensor and call.ended < when]
            atoms = [call for call in makers if call.atom]
            if not makers:
                return path[::-1], False
            path.append(atoms[-1] if atoms else makers[0])
            tensor, when = path[-1].took, path[-1].began
        return path[::-1], True

    def _branches(self, a: int, b: int, when: int) -> tuple[list[_Call], list[_Call]]:
        """The calls of the main branch and those of the shortcut; both empty for another kind of sum."""
        paths = [self._path(tensor, when) for tensor in (a, b)]
        order = sorted(paths, key=lambda path: (not path[1], _is_shortcut(path[0]), -len(path[0])))
        shortcuts = [path for path in paths if path[1] and (not path[0] or _is_shortcut(path[0]))]
        if len(shortcuts) != 1:  # by length, if names do not tell
            shortcuts = [order[-1]] if order[-1][1] else [order[0]] if order[0][1] else []
        if not shortcuts:
            return [], []
        main = next(path for path in paths if path is not shortcuts[0])
        return main[0], shortcuts[0][0]

    def _residual(self, main: list[_Call]) -> Spot:
        spot = main[-1]
        for call in reversed(main):
            spot = call if call.atom else spot
            if isinstance(call.module, NORMS) or (call.atom and any(True for _ in call.module.parameters())):
                break
        return Spot(spot.name)

    def _pre(self, shortcut: list[_Call], when: int) -> Spot | str:
        tensor, shared = self.took, 0
        while True:
            takers = [c for c in self.calls if c.atom and c.took == tensor and c.ended < when and c not in shortcut]
            through = shortcut[shared] if shared < len(shortcut) else None
            if takers or through is None:
                break
            tensor, shared = through.gave, shared + 1
        modules = {call.name for call in takers}
        if len(modules) != 1:
            return f'gives its input to {len(modules) or "no"} modules of its main branch, not to one'
        return Spot(modules.pop(), 'before')

    def _sum(self, total: int, when: int) -> Spot | str:
        takers = [call for call in self.calls if call.atom and call.took == total and call.began > when]
        if not takers and self.gave == total:
            return Spot('')
        name = takers[0].name if takers else ''
        calls = [call for call in self.calls if call.name == name]
        if len({call.name for call in takers}) != 1 or calls[-1] is not takers[0]:
            return 'has no module that takes its sum, and does not return it'
        return Spot(name, 'before', len(calls))


def _is_shortcut(path: list[_Call]) -> bool:
    return any(SHORTCUTS & {*call.name.split('.')} for call in path)


def _without_insides(block: nn.Module, path: str = '') -> Iterator[Named]:
    """The modules of a block, without style layers and the parts of norm layers."""
    yield path, block
    if not isinstance(block, NORMS) or path == '':
        for name, child in block.named_children():
            if name != 'style':
                yield from _without_insides(child, f'{path}.{name}' if path else name)


def _in_place(name: str, kwargs: Mapping[str, object]) -> bool:
    """Whether a function of torch that returns its first argument has changed it."""
    return (name.endswith('_') and not name.endswith('__')) or name.startswith('__i') or bool(kwargs.get('inplace'))


class SumWatch(TorchFunctionMode):
    """Watches the first forward pass of each block.

    Args:
        blocks: The blocks with their names.
        slots: Name of a block -> name of its empty place, which is filled.
    """

    def __init__(self, blocks: list[Named], slots: dict[str, str] | None = None) -> None:
        super().__init__()
        self.passes: dict[str, _Pass] = {}
        self._blocks, self._slots = blocks, slots or {}
        self._running: list[tuple[nn.Module, _Pass | None]] = []
        self._numbers: dict[int, int] = {}
        self._kept: list[object] = []  # so that no later tensor gets the id of an earlier one
        self._time = 0

    def __enter__(self) -> SumWatch:
        for name, block in self._blocks:
            if name in self._slots:
                setattr(block, self._slots[name], Slot())
            for path, module in _without_insides(block):
                if isinstance(module, nn.Identity):  # so that its output is another tensor
                    vars(module)['forward'] = lambda x: x.view_as(x)
                module.register_forward_pre_hook(lambda m, args, name=name, path=path: self._begin(name, path, m, args))
                module.register_forward_hook(lambda m, args, out, name=name, path=path: self._end(name, path, m, out))
        return super().__enter__()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        numbers = [self._number(arg) for arg in args[:2]] if self._running else []
        result = func(*args, **(kwargs or {}))
        if not isinstance(result, Tensor) or not numbers:
            return result
        if result is args[0] and _in_place(func.__name__, kwargs or {}):
            self._numbers[id(result)] = self._fresh()  # its content has changed
        seen = self._running[-1][1]  # of the innermost module, if that is a block
        if seen is not None and func.__name__ in _ADDS and len(numbers) == 2 and -1 not in numbers and result.dim() > 2:
            seen.sums.append((numbers[0], numbers[1], self._number(result), self._fresh()))
        return result

    def _fresh(self) -> int:
        self._time += 1
        return self._time

    def _number(self, value: object) -> int:
        """A number for each tensor and content; -1 for anything that is not a tensor."""
        if not isinstance(value, Tensor):
            return -1
        if id(value) not in self._numbers:
            self._kept.append(value)
            self._numbers[id(value)] = self._fresh()
        return self._numbers[id(value)]

    def _begin(self, name: str, path: str, module: nn.Module, args: tuple[object, ...]) -> None:
        took = self._number(args[0] if args else None)
        if path == '':
            first = name not in self.passes
            self.passes.setdefault(name, _Pass(took))
            self._running.append((module, self.passes[name] if first else None))
            return
        self._running.append((module, None))
        seen = self._around(name)
        if seen is not None:
            seen.calls.append(_Call(path, module, took, self._fresh()))

    def _end(self, name: str, path: str, module: nn.Module, output: object) -> None:
        seen = self._running.pop()[1] if path == '' else self._around(name)
        if path != '':
            self._running.pop()
        if seen is None:
            return
        if path == '':
            seen.gave = self._number(output)
            return
        call = next(c for c in reversed(seen.calls) if c.module is module and c.ended < 0)
        call.gave, call.ended = self._number(output), self._fresh()
        seen.calls.remove(call)
        seen.calls.append(call)

    def _around(self, name: str) -> _Pass | None:
        """The running pass of the block of this name; None if there is none."""
        return next((seen for _, seen in reversed(self._running) if seen is self.passes.get(name) and seen), None)
