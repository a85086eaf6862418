"""Tensors that our layers have and the authors' files may lack."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

State = Mapping[str, Tensor]


def supplement(state: State) -> dict[str, tuple[Tensor, str]]:
    """The tensors that our layers have and a state dict lacks: our key -> value and the reason."""
    found = _norms_after_a_cut(state)
    for key, value in state.items():
        path, _, last = key.rpartition('.')
        counter = f'{path}.num_batches_tracked'
        if last == 'running_mean' and counter not in state:
            found[counter] = torch.tensor(0), 'the file is from before torch 0.4.1, which began to count: 0'
        if re.search(r'\.se\.fc[12]\.weight$', key) and f'{path}.bias' not in state:
            found[f'{path}.bias'] = value.new_zeros(value.shape[0]), "the authors' layer has no bias: zeros"
    return found


def _norms_after_a_cut(state: State) -> dict[str, tuple[Tensor, str]]:
    """Identity norms for the first layer after the cut of AdvBN's DenseNets, which has no norm there."""
    found = {}
    for key, value in state.items():
        path, first, _ = key.partition('.denselayer1.conv1.weight')
        layer = f'{path}.denselayer1'
        if not first or f'{layer}.norm1.weight' in state or f'{layer}.norm2.aux_bn.weight' not in state:
            continue
        c = value.shape[1]
        why = 'the authors have no norm there: one that changes nothing, while it has these statistics'
        ones, zeros = value.new_ones(c), value.new_zeros(c)
        parts = {'weight': ones, 'bias': zeros, 'running_mean': zeros, 'running_var': ones - 1e-5}
        for name, part in {**parts, 'num_batches_tracked': torch.tensor(0)}.items():
            for norm in ('norm1', 'norm1.aux_bn'):
                found[f'{layer}.{norm}.{name}'] = part.clone(), why
    return found
