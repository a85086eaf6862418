"""Templates of keys, read in both directions: `IN{s}.{p}` is `layer{s}.{last}.style.snr.{p}`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache

from torch import Tensor

# What a field of a template stands for.
FIELDS = {
    's': '[1-4]',  # stage
    'b': r'\d+',  # block
    'k': r'\d',  # layer within a block
    'p': 'weight|bias',
    'n': 'weight|bias|running_mean|running_var|num_batches_tracked',
    'r': 'running_mean|running_var|num_batches_tracked',
    'x': '.+',  # any module
    'last': r'\d+',  # the last block of stage s
    'act': 'act2|act3|relu',  # the activation after a block's residual sum
    'end': 'bn2|bn3',  # the last norm of a block's main branch
    'gate': 'act2|act3|relu|bn2|bn3',  # what SelfNorm follows: either of these two
    'g': 'g|f',  # SelfNorm's gates
    'home': r'feature_x\.[4-6]\.|head\.layer[2-4]_',  # where AdvBN's authors have the blocks of stage s
    'dense': r'(?:feature_x|head)\.denseblock[1-4]\.denselayer',  # the same for a DenseNet
    'way': r'(?:feature_x|head)\.transition[1-3]\.',  # and the transition after these blocks
}


@dataclass(frozen=True)
class Layout:
    """What the keys of a network tell about it.

    Attributes:
        blocks: Stage -> index of its last block.
        act: Name of the activation after the residual sum.
        homes: Stage -> how its keys start in AdvBN's networks: 'feature_x.4.' before the cut, 'head.layer2_' after it;
            'feature_x.denseblock1.denselayer' and, numbered from 1 again, 'head.denseblock1.denselayer'.
        end: Name of the last norm before the residual sum.
        gate: Which of `act` and `end` SelfNorm follows. The authors' files do not say it; a network with instance norms
            after sums has SelfNorm after `end` if it has SelfNorm in all blocks, including those with such a norm.
    """

    blocks: Mapping[str, str]
    act: str
    homes: Mapping[str, str]
    end: str
    gate: str

    @classmethod
    def of(cls, keys: Iterable[str], target: str = 'timm') -> Layout:
        """Read the layout from keys of either side; activations have the names of `target`."""
        keys, bottleneck = list(keys), False
        blocks: dict[str, int] = {}
        for key in keys:
            found = re.match(r'layer([1-4])\.(\d+)\.(.*)', key)
            if found:
                blocks[found[1]] = max(blocks.get(found[1], 0), int(found[2]))
                bottleneck |= found[3] == 'conv3.weight'
        act = 'relu' if target == 'mmseg' else 'act3' if bottleneck else 'act2'
        end = 'bn3' if bottleneck else 'bn2'
        return cls({s: str(b) for s, b in blocks.items()}, act, _homes(keys), end, end if _gates_at_end(keys) else act)

    def fields(self, found: Mapping[str, str]) -> dict[str, str]:
        """Values of the fields that depend on the network, given the fields of one key."""
        ways = {s: re.sub(r'denseblock(\d)\.denselayer', r'transition\1.', home) for s, home in self.homes.items()}
        places = {'home': self.homes, 'dense': self.homes, 'way': ways}
        start = next((name for name in places if name in found), 'home')
        stage = found.get('s') or {place: s for s, place in places[start].items()}.get(found.get(start, ''), '')
        values = {'act': self.act, 'end': self.end, 'gate': self.gate, 's': stage, 'last': self.blocks.get(stage)}
        values |= {name: table.get(stage) for name, table in places.items()}
        return {name: value for name, value in values.items() if value}


@dataclass(frozen=True)
class Rule:
    """One kind of key.

    Attributes:
        theirs: Template of the authors' key; None if they have no such key.
        ours: Template of our key; None if we have none.
        why: Why there is no such key.
        dims: Number of dimensions of the authors' tensor and of ours, if they differ by trailing axes of length 1.
        head: Whether it belongs to the image classifier.
        rank: Keys of a higher rank come later in the authors' files.
        unless_zero: Whether an export leaves zeros out, for the reason `why`.
    """

    theirs: str | None
    ours: str | None
    why: str = ''
    dims: tuple[int, int] | None = None
    head: bool = False
    rank: int = 0
    unless_zero: bool = False

    def rename(self, key: str, layout: Layout, back: bool = False) -> str | None:
        """The key on the other side; '' if that has none, or None if this is another kind of key."""
        here, there = (self.ours, self.theirs) if back else (self.theirs, self.ours)
        found = None if here is None else _pattern(here).fullmatch(key)
        if found is None:
            return None
        fields = found.groupdict()
        known = layout.fields(fields)
        if any(fields[name] != value for name, value in known.items() if name in fields):
            return None
        if there is None:
            return ''
        values = known | fields
        return there.format(**values) if _pattern(there).groupindex.keys() <= values.keys() else None

    def reshape(self, value: Tensor, back: bool = False) -> Tensor:
        """The tensor as the other side has it; unchanged if it does not have the expected dimensions."""
        if self.dims is None or value.dim() != self.dims[1 if back else 0]:
            return value
        if back:
            return value.flatten(self.dims[0] - 1)
        return value.reshape(*value.shape, *(1,) * (self.dims[1] - self.dims[0]))


def same(*templates: str, head: bool = False) -> list[Rule]:
    """Rules for keys that both sides have."""
    return [Rule(template, template, head=head) for template in templates]


def drop(theirs: str, why: str, rank: int = 0) -> Rule:
    """A rule for keys of the authors that we do not use."""
    return Rule(theirs, None, why, rank=rank)


def prefixed(prefix: str, rules: Iterable[Rule]) -> Iterator[Rule]:
    """The same rules, with a prefix before the authors' keys."""
    for rule in rules:
        yield replace(rule, theirs=None if rule.theirs is None else prefix + rule.theirs)


def _gates_at_end(keys: Iterable[str]) -> bool:
    """Whether SelfNorm follows norms: it is in blocks with an instance norm after the sum, or our keys name norms."""
    sums, gates, named = set(), set(), False
    for key in keys:
        sums |= {m[1] for m in [re.match(r'(layer\d\.\d+)\.IN\.', key)] if m}
        gates |= {m[1] for m in [re.match(r'(layer\d\.\d+)\.cnsn\.', key)] if m}
        named |= re.match(r'layer\d\.\d+\.bn[23]\.style\.selfnorm\.', key) is not None
    return named or bool(sums & gates)


def _homes(keys: Iterable[str]) -> dict[str, str]:
    """`Layout.homes`, from the authors' keys; or from ours: all or no batch norms of a stage have an auxiliary one."""
    homes: dict[str, str] = {}
    norms: Counter[tuple[str, bool]] = Counter()
    dense = _dense_homes(keys)
    if dense:
        return dense
    for key in keys:
        if theirs := re.match(r'feature_x\.([4-6])\.|head\.layer([2-4])_', key):
            homes[theirs[2] or str(int(theirs[1]) - 3)] = theirs[0]
        elif ours := re.match(r'layer([1-4])\..*\.running_mean$', key):
            norms[ours[1], '.aux_bn.' in key] += 1
    for stage in {stage for stage, _ in norms}:
        main, auxiliary = norms[stage, False], norms[stage, True]
        if auxiliary == main and stage != '1':
            homes[stage] = f'head.layer{stage}_'
        elif not auxiliary and stage != '4':
            homes[stage] = f'feature_x.{int(stage) + 3}.'
    return homes


def _dense_homes(keys: Iterable[str]) -> dict[str, str]:
    """The same for DenseNets with four stages, whose cut is after a transition."""
    theirs: set[int] = set()
    dual: set[int] = set()
    for key in keys:
        if found := re.match(r'feature_x\.denseblock([1-4])\.', key):
            theirs.add(int(found[1]))
        elif found := re.match(r'features\.denseblock([1-4])\..*\.aux_bn\.', key):
            dual.add(int(found[1]))
    if not theirs and not dual:
        return {}
    cut = max(theirs) if theirs else min(dual) - 1
    before = {str(s): f'feature_x.denseblock{s}.denselayer' for s in range(1, cut + 1)}
    return before | {str(s): f'head.denseblock{s - cut}.denselayer' for s in range(cut + 1, 5)}


@cache
def _pattern(template: str) -> re.Pattern[str]:
    parts = re.split(r'{(\w+)}', template)
    return re.compile(''.join(f'(?P<{p}>{FIELDS[p]})' if i % 2 else re.escape(p) for i, p in enumerate(parts)))
