"""The gates of batch-instance norm in optimizers."""

import copy

import pytest
import torch
from golden_data import assert_matches, load
from nets import small
from since import since
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler

import timm_stylenorm
from timm_stylenorm.gates import gate_parameters, separate_gates
from timm_stylenorm.layers import BatchInstanceNorm2d


def bin_resnet():
    return timm_stylenorm.add_style(small('resnet18', num_classes=4), 'bin')


def push_gates(model, optimizer, slope):
    """A step with the same gradient for every parameter."""
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, slope)
    optimizer.step()
    return torch.cat([p.detach() for _, p in gate_parameters(model)])


def test_the_optimizer_of_the_authors():
    d = load('bin_a')
    layer = BatchInstanceNorm2d(6)
    layer.load_state_dict({k[6:]: v for k, v in d.items() if k.startswith('param.')}, strict=False)
    options = {k: float(d[f'opt_{k}']) for k in ('lr', 'momentum', 'weight_decay')}
    optimizer = separate_gates(torch.optim.SGD(layer.parameters(), **options), layer, float(d['opt_gate_lr_mult']))
    for step in range(len(d['opt_traj.gate'])):
        for key in ('weight', 'bias', 'gate'):
            parameter = getattr(layer, key)
            assert_matches(parameter.detach(), d[f'opt_traj.{key}'][step])
            parameter.grad = d['opt_grad_scale'] * d[f'grad_train.{key}']
        optimizer.step()
    assert d['opt_traj.gate'].min() == 0, 'the clamp was tried'


@pytest.mark.parametrize('opt', ['momentum', 'adamw', 'lamb', 'lookahead_momentum'])
def test_optimizers_of_timm(opt):
    model = bin_resnet()
    optimizer = separate_gates(create_optimizer_v2(model, opt=opt, lr=0.5, weight_decay=0.1), model)
    faster = [g for g in optimizer.param_groups if g.get('gates')]
    assert sum(len(g['params']) for g in faster) == 20
    assert all((g['lr'], g['weight_decay']) == (5.0, 0.0) for g in faster)
    count = sum(len(g['params']) for g in optimizer.param_groups)
    assert count == len(list(model.parameters()))
    assert push_gates(model, optimizer, 1.0).max() == 0
    assert push_gates(model, optimizer, -100.0).max() <= 1
    state = copy.deepcopy(optimizer.state_dict())
    optimizer.load_state_dict(state)
    assert push_gates(model, optimizer, -100.0).min() >= 0
    scheduler = CosineLRScheduler(optimizer, t_initial=10)
    scheduler.step(5)
    lrs = {bool(g.get('gates')): g['lr'] for g in optimizer.param_groups}
    assert lrs[True] == pytest.approx(10 * lrs[False])


@since('torch', '2.6', 'optimizers take no names')
def test_names_of_parameters_go_with_them():
    model = bin_resnet()
    optimizer = separate_gates(torch.optim.SGD(model.named_parameters(), lr=0.1), model)
    named = dict(model.named_parameters())
    for group in optimizer.param_groups:
        assert all(named[name] is p for name, p in zip(group['param_names'], group['params'], strict=True))


def test_a_model_without_gates_and_a_second_call_change_nothing():
    model = small('resnet18', num_classes=4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    assert len(separate_gates(optimizer, model).param_groups) == 1
    model = bin_resnet()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    assert len(separate_gates(separate_gates(optimizer, model), model).param_groups) == 2
    assert len(optimizer._optimizer_step_post_hooks) == 1


def test_gates_that_the_optimizer_lacks_are_named():
    model = bin_resnet()
    optimizer = torch.optim.SGD(model.layer1.parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r'the optimizer has no bn1\.gate'):
        separate_gates(optimizer, model)
    with pytest.raises(ValueError, match='lr_factor > 0, got 0'):
        separate_gates(optimizer, model, 0)
