"""Which network a state dict with our names belongs to, inferred from the names and shapes of its tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

_BLOCK = r'layer{}\.(\d+)\.'
_DEPTHS: dict[tuple[tuple[int, ...], bool], int] = {
    ((2, 2, 2, 2), False): 18,
    ((3, 4, 6, 3), False): 34,
    ((3, 4, 6, 3), True): 50,
    ((3, 4, 23, 3), True): 101,
    ((3, 8, 36, 3), True): 152,
}
_DENSE_DEPTHS: dict[tuple[int, ...], int] = {
    (6, 12, 24, 16): 121,
    (6, 12, 36, 24): 161,
    (6, 12, 32, 32): 169,
    (6, 12, 48, 32): 201,
}


def architecture(state: Mapping[str, Tensor]) -> str | None:
    """timm's name of the plain network ('resnet50', 'seresnet101', 'densenet121'); None for any other network."""
    counts = tuple(_blocks(state, _BLOCK.format(s)) for s in range(1, 5))
    dense = tuple(_blocks(state, rf'features\.denseblock{s}\.denselayer(\d+)\.', first=1) for s in range(1, 5))
    if dense in _DENSE_DEPTHS:
        return f'densenet{_DENSE_DEPTHS[dense]}'
    depth = _DEPTHS.get((counts, 'layer1.0.conv3.weight' in state))
    if depth is None:
        return None
    se = 'se' if 'layer1.0.se.fc1.weight' in state else ''
    conv = state.get('layer1.0.conv2.weight')
    if conv is None or conv.dim() != 4:
        return None
    width, inputs = conv.shape[:2]  # inputs of one group
    if width != inputs:
        return f'{se}resnext{depth}_{width // inputs}x{inputs}d'
    return f'wide_resnet{depth}_2' if width == 128 else f'{se}resnet{depth}'


def num_classes(state: Mapping[str, Tensor]) -> int | None:
    """Number of classes of the image classifier; None if there is none."""
    for key in ('fc.weight', 'classifier.weight'):
        if key in state:
            return len(state[key])
    return None


def style(state: Mapping[str, Tensor], method: str | None) -> dict[str, object] | list[dict[str, object]] | None:
    """The style for `add_style` whose layers the tensors fit: the method and its non-default arguments.

    A list for SelfNorm together with IBN-b; None for other combinations of methods.
    """
    if method == 'own':
        found = own_styles(state)
        return found[0] if len(found) == 1 else None
    if method == 'snr':
        return _snr(state)
    if method == 'ibn':
        return _ibn_b(state) or _ibn_a(state)
    if method == 'advbn':
        return _advbn(state)
    if method == 'selfnorm':
        ibn = _ibn_b(state)
        return [ibn, _selfnorm(state)] if ibn else _selfnorm(state)
    return None if method is None else {'type': method}


def own_styles(state: Mapping[str, Tensor]) -> list[dict[str, object]]:
    """A style dict for each method that our keys show; methods without tensors leave no keys."""
    kinds = {'.gate': 'bin', '.aux_bn.weight': 'dual_bn'}
    found: list[Any] = [{'type': name} for end, name in kinds.items() if any(key.endswith(end) for key in state)]
    found += [_ibn_a(state)] if instance_parts(state) else []
    for name in dict.fromkeys(m[1] for key in state if (m := re.search(r'\.style\.(\w+)\.', key))):
        found.append(
            {'snr': _snr, 'ibn_b': _ibn_b, 'selfnorm': _selfnorm}.get(name, lambda _, name=name: {'type': name})(state)
        )
    return found


def instance_parts(state: Mapping[str, Tensor]) -> dict[str, tuple[int, int]]:
    """IBN-a layers: name -> number of channels with instance norm, number of all channels."""
    parts = {}
    for key, value in state.items():
        path, found, _ = key.partition('.IN.weight')
        if found and f'{path}.BN.weight' in state:
            parts[path] = len(value), len(value) + len(state[f'{path}.BN.weight'])
    return parts


def _ibn_a(state: Mapping[str, Tensor]) -> dict[str, object]:
    """The authors' resnets have instance norm on the first int(C * ratio) channels; their densenets have batch norm on
    the first int(C * (1 - ratio))."""
    parts = instance_parts(state)
    first = not any(path.startswith('features.') for path in parts)
    usual = {m[1] for key in state if (m := re.match(r'(layer[1-3]\.\d+\.bn1)\.', key))}
    found: dict[str, object] = {'type': 'ibn_a'} | ({} if first else {'instance_first': False})
    if parts.keys() != usual:
        found['sites'] = list(parts)
    for ratio in (0.5, *(i / 100 for i in range(1, 100))):
        if all(part == (int(c * ratio) if first else c - int(c * (1 - ratio))) for part, c in parts.values()):
            return found | ({} if ratio == 0.5 else {'ratio': ratio})
    return found


def _ibn_b(state: Mapping[str, Tensor]) -> dict[str, object] | None:
    """None if no instance norm follows a residual sum."""
    sums = dict.fromkeys(m[1] for key in state if (m := re.match(r'layer(\d)\.\d+\.\w+\.style\.ibn_b\.', key)))
    sites = [] if 'bn1.running_mean' in state else ['stem.norm']
    sites += [f'stage{s}.sum' for s in sums]
    if not sums:
        return None
    return {'type': 'ibn_b'} | ({} if sites == ['stem.norm', 'stage1.sum', 'stage2.sum'] else {'sites': sites})


def _selfnorm(state: Mapping[str, Tensor]) -> dict[str, object]:
    """The style of SelfNorm at the sums, or at the ends of the main branches, of all blocks or of the named ones."""
    found: dict[str, object] = {'type': 'selfnorm'}
    if any('.style.selfnorm.f_fc.' in key for key in state):
        found['two'] = True
    pattern = r'(layer\d\.\d+)\.(act2|act3|relu|bn2|bn3)\.style\.selfnorm\.g_fc\.weight'
    places = [match for key in state if (match := re.fullmatch(pattern, key))]
    parts = {'residual' if match[2].startswith('bn') else 'sum' for match in places}
    if len(parts) != 1:
        return found
    (part,) = parts
    count = sum(_blocks(state, _BLOCK.format(s)) for s in range(1, 5))
    sites = f'blocks.{part}' if len(places) == count else [f'{match[1]}.{part}' for match in places]
    return {**found, 'sites': sites}


def _snr(state: Mapping[str, Tensor]) -> dict[str, object]:
    found: dict[str, object] = {'type': 'snr'}
    for key, value in state.items():
        if key.endswith('.style.snr.fc1.weight'):
            hidden, c = value.shape[:2]
            if hidden != max(c // 16, 1):
                found['reduction'] = c // hidden
        if key.endswith('.style.snr.head.weight'):
            found['num_classes'] = len(value)
    places = [key.partition('.style.snr.')[0] for key in state if key.endswith('.style.snr.weight')]
    ends = [f'layer{s}.{_blocks(state, _BLOCK.format(s)) - 1}' for s in (1, 2, 3)]
    return found if sorted(places) == ends else {**found, 'sites': places}


def _advbn(state: Mapping[str, Tensor]) -> dict[str, object]:
    """The cut is before the first stage with auxiliary batch norms."""
    first = min(int(m[1]) for key in state if (m := re.match(r'(?:layer|features\.denseblock)(\d)\..*\.aux_bn\.', key)))
    if any(key.startswith('features.denseblock') for key in state):
        return {'type': 'advbn', 'sites': [f'features.transition{first - 1}']}
    return {'type': 'advbn'} | ({} if first == 2 else {'sites': [f'stage{first - 1}']})


def _blocks(state: Mapping[str, Tensor], pattern: str, first: int = 0) -> int:
    found = [int(match[1]) for key in state if (match := re.match(pattern, key))]
    return max(found, default=first - 1) + 1 - first
