"""Conversion of the authors' keys to ours and back, with a report of every key."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import timm
import torch
from torch import Tensor

from ..errors import unknown
from . import describe
from .owned import flat_names, owned_names
from .prefixes import resolve, strip
from .rules import Layout, Rule
from .sources import Source, get_source, host
from .supplement import supplement

TARGETS = ('timm', 'mmseg')
_STYLED = {'.aux_bn.': 'an auxiliary batch norm', '.style.': 'a style layer'}
_NO_MMSEG_HEAD = "mmseg's backbones have no image classifier"


@dataclass
class Report:
    """What became of every key.

    Attributes:
        source: The name of the row in `SOURCES`.
        target: 'timm', 'mmseg', or, for an export, 'authors'.
        prefix: What was removed from the start of the keys.
        mapped: Old key -> new key.
        dropped: Old key -> why it is not in the result.
        added: New key -> why it is there without an old one.
        left: Key of the model in `verify` -> why it keeps its initialisation.
        notes: Whatever else there is to say.
    """

    source: str
    target: str
    prefix: str = ''
    mapped: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    added: dict[str, str] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def summary(self) -> str:
        """One line of counts."""
        renamed = sum(self._renamed(old, new) for old, new in self.mapped.items())
        return (
            f'{self.source} -> {self.target}: {len(self.mapped)} keys mapped, {renamed} of them renamed; '
            f'{len(self.dropped)} dropped, {len(self.added)} added, {len(self.left)} left at init'
        )

    def lines(self, every: bool = True) -> Iterator[str]:
        """A line for each key; without `every`, keys that kept their name (except for the prefix) are left out."""
        if self.prefix:
            yield f'prefix   {self.prefix} was taken off'
        yield from (f'note     {note}' for note in self.notes)
        for old, new in self.mapped.items():
            if every or self._renamed(old, new):
                yield f'mapped   {old} -> {new}'
        for word, keys in (('dropped', self.dropped), ('added', self.added), ('left', self.left)):
            yield from (f'{word:8} {key}: {why}' for key, why in keys.items())

    def _renamed(self, old: str, new: str) -> bool:
        return old.removeprefix(self.prefix) != new

    def __str__(self) -> str:
        return '\n'.join([self.summary(), *self.lines()])


@dataclass
class Conversion:
    """A state dict with converted keys.

    Attributes:
        state_dict: The tensors; they share memory with those that were passed in.
        report: What became of every key.
        style: The `style` with which `add_style` makes the layers that the tensors fit; None without one, and for an
            export.
        model: timm's name for network and method ('resnet18_snr'); None if unknown.
    """

    state_dict: dict[str, Tensor]
    report: Report
    style: dict[str, object] | list[dict[str, object]] | None = None
    model: str | None = None


def convert(
    state: Mapping[str, Tensor],
    source: str | None = None,
    target: str = 'timm',
    drop_classifier: bool = False,
    plain: bool = False,
) -> Conversion:
    """Rename the authors' keys to ours.

    Args:
        state: The authors' state dict; a prefix of the keys is removed.
        source: A row of `SOURCES`; by default it is detected. Keys that a named source does not know are dropped.
        target: 'timm', or 'mmseg' for a bare backbone of mmsegmentation.
        drop_classifier: Leave the image classifier out, for a model with other classes.
        plain: Leave out auxiliary batch norms, for the plain network that evaluation uses. For a checkpoint of the
            Runner, leave out all attached layers, for the network without them.

    Raises:
        ValueError: Unknown source or target, keys of no known source, two keys that mean the same, a network that the
            target does not have, or `plain` for a method that changes what evaluation computes (in a checkpoint of the
            Runner, a method that replaced batch norms by others).
    """
    if target not in TARGETS:
        raise ValueError(unknown('target', target, TARGETS))
    given = {flat: key for key, flat in flat_names(state).items()}
    state = {flat: state[key] for flat, key in given.items()}
    name, inner, prefix = resolve(state, source)
    if target == 'mmseg':
        _refuse_mmseg(inner)
    row, report = get_source(name)[1], Report(name, target, prefix)
    if plain and row.method is not None and not row.dual:
        raise ValueError(f'a checkpoint of {name} has no plain network in it: {row.method} takes part in evaluation')
    if plain and name == 'runner':
        _refuse_replaced(inner)
    no_head = _NO_MMSEG_HEAD if target == 'mmseg' else 'the classifier, as asked' if drop_classifier else ''
    result: dict[str, Tensor] = {}
    layout = Layout.of(inner, target)
    for key, value in inner.items():
        rule, new = row.find(key, layout) or (Rule(None, None, f'no key of {name}'), '')
        styled = next((what for mark, what in _STYLED.items() if plain and mark in new), '')
        why = (no_head if rule.head else styled) if new else rule.why
        if why:
            report.dropped[prefix + key] = why
            continue
        if new in result:
            raise ValueError(f'{prefix + key!r} and another key of the checkpoint both mean {new!r}')
        report.mapped[prefix + key] = new
        result[new] = rule.reshape(value)
    report.dropped |= {key: f'not below {prefix!r}' for key in state if not key.startswith(prefix)}
    for key, (value, why) in supplement(result).items():
        result[key] = value
        report.added[key] = why
    if plain:
        _check_complete(result)
    conversion = _described(result, report, row, None if plain else row.method)
    names = owned_names(result)
    conversion.state_dict = {names[key]: value for key, value in result.items()}
    report.mapped = {given[old]: names[new] for old, new in report.mapped.items()}
    report.dropped = {given[old]: why for old, why in report.dropped.items()}
    report.added = {names[new]: why for new, why in report.added.items()}
    return conversion


def export(state: Mapping[str, Tensor], source: str) -> Conversion:
    """Rename our keys to the authors': the inverse of `convert`.

    Args:
        state: State dict of a timm model or of an mmseg backbone with the style method of the source, or of a whole
            segmentor, whose backbone is used.
        source: Whose keys to write, a row of `SOURCES`.

    Raises:
        ValueError: Unknown source, a weight that the authors' network has no place for, or a model without the
            layers of the source.
    """
    name, row = get_source(source)
    given = {flat: key for key, flat in flat_names(state).items()}
    state = {flat: state[key] for flat, key in given.items()}
    inner, prefix = strip(state, lambda keys: len(row.fitting(keys, back=True)))
    report, layout = Report(name, 'authors', prefix), Layout.of(inner, host(inner))
    found: list[tuple[int, str, Tensor]] = []
    for key, value in inner.items():
        match = row.find(key, layout, back=True)
        if match is None:
            raise ValueError(
                f'cannot export to {name}: its network has no place for {given[prefix + key]!r} '
                f'({len(row.fitting(inner, back=True))} of {len(inner)} keys have one)'
            )
        rule, new = match
        if not new or (rule.unless_zero and not value.any()):
            report.dropped[prefix + key] = rule.why
            continue
        report.mapped[prefix + key] = new
        found.append((rule.rank, new, rule.reshape(value, back=True)))
    report.dropped |= {key: f'not below {prefix!r}' for key in state if not key.startswith(prefix)}
    report.mapped = {given[key]: new for key, new in report.mapped.items()}
    report.dropped = {given[key]: why for key, why in report.dropped.items()}
    return _completed(found, row, report, layout)


def _completed(found: list[tuple[int, str, Tensor]], row: Source, report: Report, layout: Layout) -> Conversion:
    """An export in the authors' order, with the modules that their network has but never runs."""
    result = {key: value for _, key, value in found}
    if not row.marked(result):
        raise ValueError(
            f'cannot export to {report.source}: the model has no weights for {" or ".join(row.marker)}; it is of '
            'another method'
        )
    places = {_module(key): i for i, key in reversed([*enumerate(result)])}
    for key, (value, what) in row.unused(result).items():
        rule, _ = row.find(key, layout) or (Rule(None, None), '')
        found.append((rule.rank, key, value))
        report.added[key] = f'{rule.why}: {what}'
    if row.lacks:
        report.notes.append(f'the file lacks {row.lacks}')
    found.sort(key=lambda entry: (entry[0], places.get(_module(entry[1]), len(result))))  # stable
    return Conversion({key: value for _, key, value in found}, report)


def _module(key: str) -> str:
    """The module by which a key is sorted in the authors' order: adversarial batch norms come after the clean ones."""
    return key.rpartition('.')[0].replace('.adv_', '.clean_')


def _refuse_replaced(keys: Iterable[str]) -> None:
    kinds = {'.gate': 'bin', '.IN.weight': 'ibn_a'}
    for end, kind in kinds.items():
        if any(key.endswith(end) for key in keys):
            raise ValueError(f'the batch norms of this checkpoint were replaced by those of {kind}: no plain network')


def _check_complete(state: Mapping[str, Tensor]) -> None:
    """Raise a ValueError if style layers have replaced keys of a plain network that timm knows."""
    name = describe.architecture(state)
    if name is None:
        return
    with torch.device('meta'):
        missing = timm.create_model(name).state_dict().keys() - state.keys()
    missing = {key for key in missing if not key.startswith(('fc.', 'classifier.', 'head.'))}
    if missing:
        some = ', '.join(sorted(missing)[:3])
        raise ValueError(f'style layers replaced batch norms of {name} in this checkpoint: it has no {some}')


def _refuse_mmseg(keys: Iterable[str]) -> None:
    kinds = {'features.denseblock': 'DenseNet', '.se.fc': 'SE-ResNet'}
    for mark, kind in kinds.items():
        if any(mark in key for key in keys):
            raise ValueError(
                f"mmseg has no backbone {kind}: convert to 'timm', and use the result in mmseg's TIMMBackbone"
            )


def _described(state: dict[str, Tensor], report: Report, row: Source, method: str | None) -> Conversion:
    style = describe.style(state, method)
    name = describe.architecture(state)
    if name is not None and style is not None:
        name = f'{name}_{(style[0] if isinstance(style, list) else style)["type"]}'
    parts = Counter(describe.instance_parts(state).values())
    report.notes += [f'instance norm on {part} of {c} channels in {n} layers' for (part, c), n in parts.items()]
    classes = describe.num_classes(state)
    report.notes.append(
        f'this is {name or "a network without a name in timm"}'
        + (f' with {classes} classes' if classes else '')
        + (f'; style={style}' if style and len(style) > 1 else '')
    )
    report.notes += [row.hint] if row.hint else []
    return Conversion(state, report, style, name)
