"""The gates of batch-instance normalisation in the optimizer: groups of their own that learn faster, kept in [0, 1].

Nam, Kim, 'Batch-Instance Normalization for Adaptively Style-Invariant Neural Networks', NeurIPS 2018, arXiv:1805.07925.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn
from torch.optim import Optimizer

from .host import inner_optimizer
from .layers import BatchInstanceNorm2d
from .surgery.companions import provide
from .torch_host import add_step_hook


def gate_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The gates of all batch-instance norms, with their names as in `model.named_parameters()`."""
    for name, module in model.named_modules():
        if isinstance(module, BatchInstanceNorm2d):
            yield f'{name}.gate' if name else 'gate', module.gate


def separate_gates(optimizer: Optimizer, model: nn.Module, lr_factor: float = 10.0) -> Optimizer:
    """Put the gates of a model into parameter groups of their own, and clamp them to [0, 1] after every step.

    Call it before a scheduler is made:
    `optimizer = separate_gates(create_optimizer_v2(model, opt='momentum', lr=0.1), model)`.

    Args:
        optimizer: An optimizer with the parameters of `model`; changed in place. Clamping a gate does not change its
            momentum, as in the authors' code.
        model: The model. Nothing happens if it has no gate.
        lr_factor: The learning rate of a gate is the learning rate of its old group times this factor; its weight decay
            is 0.

    Returns:
        The same optimizer.

    Raises:
        ValueError: A trainable gate is not among the optimizer's parameters, or `lr_factor` is not positive.
    """
    if not lr_factor > 0:
        raise ValueError(f'separate_gates: expected lr_factor > 0, got {lr_factor!r}')
    gates = {p: name for name, p in gate_parameters(model) if p.requires_grad}
    lacking = set(gates) - {p for group in optimizer.param_groups for p in group['params']}
    if lacking:
        raise ValueError(f'separate_gates: the optimizer has no {", ".join(sorted(gates[p] for p in lacking))}')
    if any(group.get('gates') for group in optimizer.param_groups):
        provide(model, 'gates')
        return optimizer
    if not gates:
        return optimizer
    for group in list(optimizer.param_groups):
        ours = [p for p in group['params'] if p in gates]
        if ours:
            faster: dict[str, object] = {k: group[k] * lr_factor for k in ('lr', 'initial_lr') if k in group}
            names = dict(zip(group['params'], group.get('param_names', ()), strict=False))
            group['params'] = [p for p in group['params'] if p not in gates]
            if names:
                group['param_names'] = [names[p] for p in group['params']]
                faster['param_names'] = [names[p] for p in ours]
            optimizer.add_param_group({**group, **faster, 'params': ours, 'weight_decay': 0.0, 'gates': True})
    optimizer.param_groups[:] = [group for group in optimizer.param_groups if group['params']]
    provide(model, 'gates')
    add_step_hook(inner_optimizer(optimizer), clamp_gates)
    return optimizer


@torch.no_grad()
def clamp_gates(optimizer: Optimizer, args: object = None, kwargs: object = None) -> None:
    """Clamp the gates in an optimizer's groups to [0, 1]; a hook for `register_step_post_hook`."""
    for group in optimizer.param_groups:
        for parameter in group['params'] if group.get('gates') else ():
            parameter.clamp_(0, 1)
