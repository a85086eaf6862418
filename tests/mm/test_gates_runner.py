"""The gates of batch-instance norm in the Runner's optimizers."""

import pytest
from mmengine.optim import build_optim_wrapper
from mmengine.optim.scheduler import MultiStepLR
from test_gates import bin_resnet, push_gates

import timm_stylenorm.classification  # noqa: F401 (registers the constructors)


@pytest.mark.parametrize('constructor', ['GateOptimWrapperConstructor', 'TimmOptimWrapperConstructor'])
def test_optimizers_of_mmengine(constructor):
    model = bin_resnet()
    timm_key = dict(opt='momentum') if 'Timm' in constructor else dict(type='SGD', momentum=0.9)
    cfg = dict(type='OptimWrapper', constructor=constructor, optimizer=dict(lr=0.5, weight_decay=0.1, **timm_key))
    wrapper = build_optim_wrapper(model, cfg)
    scheduler = MultiStepLR(wrapper, milestones=[1])
    scheduler.step()
    lrs = {bool(g.get('gates')): g['lr'] for g in wrapper.param_groups}
    assert lrs[True] == pytest.approx(10 * lrs[False])
    for slope in (1.0, -100.0):
        gates = push_gates(model, wrapper.optimizer, slope)
        assert gates.min() >= 0
        assert gates.max() <= 1
