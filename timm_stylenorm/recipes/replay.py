"""Rerun only the part of a model that follows a style layer: the part before it returns its recorded outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from torch import Tensor, nn

from ..layers import AdvBN
from ..surgery.context import override_attr
from ..surgery.hooks import attachments_of, module_of, muted


class Replay:
    """The part of a model before the cut: it runs once while `recording`, and returns the same while `playing`.

    This part consists of the modules that are registered before the cut, in the same module or in an enclosing one, and
    the module that carries the layer. Only the outermost of these are recorded, by a hook. A module that is not called
    on the way to the cut, or that is called again after it, runs as usual.

    Args:
        model: The whole network.
        layer: The layer at the cut, attached in it.
    """

    def __init__(self, model: nn.Module, layer: AdvBN) -> None:
        self.layer, self.cut = layer, module_of(model, layer)
        self.lower = [*_before(model, self.cut), self.cut]
        self.features: Tensor  # the input of the layer, (N, C, *spatial)
        self._outputs: dict[nn.Module, list[object]] = {}

    @contextmanager
    def recording(self) -> Iterator[None]:
        """A context in which one forward pass is recorded.

        Raises:
            RuntimeError: The pass did not reach the cut, reached it more than once, or changed the map there in place.
        """
        self._outputs = {module: [] for module in self.lower[:-1]}
        recorded: list[Tensor] = []
        self.layer.recorded = recorded
        versions: list[int] = []
        handles = [module.register_forward_hook(self._record) for module in self.lower[:-1]]
        handles.append(self.layer.register_forward_hook(lambda layer, args, y: versions.append(args[0]._version)))
        try:
            yield
            if len(recorded) != 2:
                raise RuntimeError(
                    f'{self.layer.attachment}: one forward passed the cut {len(recorded) // 2} times, not once'
                )
            if recorded[0]._version != versions[0]:
                raise RuntimeError(
                    f'{self.layer.attachment}: what follows the cut changes its maps in place; cut after that'
                )
            self._outputs[self.cut], self.features = [recorded[0]], recorded[1]
        finally:
            self.layer.recorded = None
            for handle in handles:
                handle.remove()

    def _record(self, module: nn.Module, args: object, output: object) -> None:
        if not self.layer.recorded:  # still before the cut
            self._outputs[module].append(output)

    @contextmanager
    def playing(self, features: Tensor) -> Iterator[None]:
        """A context in which one forward pass starts at the layer, which returns `features`."""
        with ExitStack() as stack:
            for module, outputs in self._outputs.items():
                if outputs:
                    stack.enter_context(muted(module, layers=module is not self.cut))
                    stack.enter_context(_forward(module, outputs))
            style = attachments_of(self.cut)
            layers = list(style.values()) if style is not None else []
            before = layers[: layers.index(self.layer)]  # at the cut too, and already applied
            stack.enter_context(override_attr(before, 'enabled', False))
            stack.enter_context(override_attr([self.layer], 'disturbed', features))
            yield


@contextmanager
def _forward(module: nn.Module, outputs: list[object]) -> Iterator[None]:
    """A context in which the first calls of a module's forward return `outputs`; further calls compute."""
    own = vars(module).get('forward')
    module.forward = _player(module.forward, outputs)
    try:
        yield
    finally:
        if own is None:
            del module.forward
        else:
            module.forward = own


def _player(forward: Callable[..., object], outputs: list[object]) -> Callable[..., object]:
    left = iter(outputs)

    def play(*args: object, **kwargs: object) -> object:
        for output in left:
            return output
        return forward(*args, **kwargs)

    return play


def _before(model: nn.Module, cut: nn.Module) -> list[nn.Module]:
    """The outermost modules that are registered before `cut`."""
    path = next(name for name, module in model.named_modules() if module is cut)
    parent, found = model, []
    for step in path.split('.'):
        for name, child in parent.named_children():
            if name == step:
                parent = child
                break
            found.append(child)
    return found
