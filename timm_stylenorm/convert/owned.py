"""Names of batch norms that one of our layers owns: `bn1.bn.weight` here, `bn1.weight` in the authors' files.

The rules of the table use the authors' form for both sides, as files of version 0.1.0 do.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_TENSOR = r'(weight|bias|running_mean|running_var|num_batches_tracked)'


def _owners(keys: Iterable[str]) -> set[str]:
    """Paths of the layers that own a batch norm: BIN has a gate beside it, a dual one an auxiliary batch norm."""
    found = (re.fullmatch(rf'(?:(.*)\.)?(?:gate|aux_bn\.{_TENSOR})', key) for key in keys)
    return {match[1] or '' for match in found if match}


def _moved(keys: Iterable[str], before: str, after: str) -> dict[str, str]:
    keys, moved = list(keys), {}
    owners = _owners(keys)
    for key in keys:
        match = re.fullmatch(rf'(?:(.*)\.)?{before}{_TENSOR}', key)
        if match and (match[1] or '') in owners:
            moved[key] = f'{match[1]}.{after}{match[2]}' if match[1] else f'{after}{match[2]}'
        else:
            moved[key] = key
    return moved


def owned_names(keys: Iterable[str]) -> dict[str, str]:
    """Each key -> its name in our models: 'bn1.weight' becomes 'bn1.bn.weight' if there is 'bn1.gate'."""
    return _moved(keys, '', r'bn.')


def flat_names(keys: Iterable[str]) -> dict[str, str]:
    """The inverse of `owned_names`."""
    return _moved(keys, r'bn\.', '')
