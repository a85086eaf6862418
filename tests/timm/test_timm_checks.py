"""What timm asks of every model of its own, asked of names of ours: one check for each question, over all methods.

timm's repository has these questions in tests/test_models.py. What a name cannot answer stands in `EXCLUDED`, with why.
"""

import math
from contextlib import nullcontext
from fnmatch import fnmatch

import pytest
import timm
import torch
from expected import LONELY, UNTAKEN
from timm.models import FeatureInfo, get_notrace_functions, get_notrace_modules, group_parameters
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

from timm_stylenorm.dual_bn import routed
from timm_stylenorm.methods import ROWS

pytestmark = [LONELY, UNTAKEN, pytest.mark.slow]

# every method on one network, and every family with several
FAMILIES = {
    'resnet50': ('snr', 'ibn_b'),
    'seresnet18': ('irw',),
    'resnext50_32x4d': ('ibn_a',),
    'wide_resnet50_2': ('padain',),
    'regnetx_002': ('isw',),
    'regnety_002': ('ibn_b', 'selfnorm'),
    'densenet121': ('dsu', 'ibn_a'),
    'efficientnet_b0': ('bin',),
    'efficientnet_lite0': ('snr',),
    'mobilenetv3_small_100': ('padain', 'domainnorm'),
    'mobilenetv4_conv_small': ('crossnorm',),
    'resnetv2_50': ('ibn_a',),
    'vgg11_bn': ('dual_bn',),
    'dla34': ('debiased', 'mixstyle'),
    'convnext_atto': ('selfnorm', 'dsu'),
}
NAMES = [f'resnet18_{method}' for method in ROWS]
NAMES += [f'{arch}_{method}' for arch, methods in FAMILIES.items() for method in methods]

# (check, names) -> why
EXCLUDED = {
    ('torchscript', '*'): 'torch.jit.script is refused with one sentence, see test_tracing.py',
}


def size_of(model, target):
    return tuple(min(n, target) for n in model.default_cfg['input_size'])


def images_for(model, n=1, target=96):
    return torch.randn(n, *size_of(model, target))


def checkpoints(model):
    """Whether the network can checkpoint, as it does from now on: timm's VGG and DLA cannot."""
    try:
        model.set_grad_checkpointing()
    except AssertionError:
        return False
    return True


def graph_of(model):
    """A graph, with what timm says cannot be traced as leaves, and its forward."""
    known = dict(
        leaf_modules=get_notrace_modules(), autowrap_functions=get_notrace_functions(), param_shapes_constant=True
    )
    nodes = [found[-1:] for found in get_graph_node_names(model, tracer_kwargs=known)]
    names = ('train_return_nodes', 'eval_return_nodes')
    graph = create_feature_extractor(model, **dict(zip(names, nodes, strict=True)), tracer_kwargs=known)
    return graph, lambda x: next(iter(graph(x).values()))


def forward(name):
    model = timm.create_model(name).eval()
    x = images_for(model)
    expected = model(x)
    assert expected.shape == (1, model.num_classes)
    assert expected.isfinite().all()
    if checkpoints(model):
        torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)


def through_both_norms(model, n):
    """Dual batch norms get gradients in both halves where a batch goes through both."""
    dual = any('aux_bn' in name for name, _ in model.named_parameters())
    return routed(model, [i % 2 == 1 for i in range(n)]) if dual else nullcontext()


def assert_every_parameter_learns(model, x, run):
    with through_both_norms(model, len(x)):
        y = run(x)
    assert y.shape == (len(x), 42)
    y.mean().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def backward(name):
    model = timm.create_model(name, num_classes=42).train()
    assert_every_parameter_learns(model, images_for(model, 4), model)


def configuration(name):
    with torch.device('meta'):
        model = timm.create_model(name, device='meta').eval()
        with pytest.raises(TypeError):
            timm.create_model(name, not_an_argument=1)
    cfg, x = model.default_cfg, images_for(model, target=448).to('meta')
    assert cfg['architecture'] == name
    features = model.forward_features(x)
    assert features.shape[1] == model.num_features
    assert tuple(features.shape[2:]) == tuple(cfg['pool_size'])
    assert model.forward_head(features, pre_logits=True).shape == (1, model.head_hidden_size)
    assert model.to(torch.bfloat16)(x.bfloat16()).dtype == torch.bfloat16
    groups = group_parameters(model, model.group_matcher(coarse=False), reverse=True)
    assert {*groups} == {name for name, _ in model.named_parameters()}
    assert len({*groups.values()}) > 1
    for key in (cfg['classifier'], cfg['first_conv']):
        assert f'{key}.weight' in model.state_dict()
    model.to(torch.float64)
    model.reset_classifier(2)
    assert {(p.device.type, p.dtype) for p in model.parameters()} == {('meta', torch.float64)}
    assert not any(module.training for module in model.modules())
    model.requires_grad_(False).reset_classifier(0)
    assert not any(p.requires_grad for p in model.parameters())
    headless = timm.create_model(name, num_classes=0, device='meta').eval()
    assert headless(x).shape == (1, headless.head_hidden_size)
    assert {t.device.type for t in headless.state_dict().values()} == {'meta'}


def assert_levels(found, info, size):
    channels, reductions = info.channels(), info.reduction()
    assert [y.shape[1] for y in found] == channels
    for y, reduction in zip(found, reductions, strict=True):
        assert all(n <= math.ceil(s / reduction) + 1 for n, s in zip(y.shape[2:], size, strict=True))
        assert y.isfinite().all()


def features(name, **options):
    model = timm.create_model(name, features_only=True, **options).eval()
    x = torch.randn(1, 3, 96, 96)
    assert_levels(model(x), model.feature_info, x.shape[2:])


def features_by_getter(name):
    features(name, feature_cls='getter')


def intermediates(name):
    model = timm.create_model(name).eval()
    info, x = FeatureInfo(model.feature_info, len(model.feature_info)), images_for(model)
    output, found = model.forward_intermediates(x)
    assert_levels(found, info, x.shape[2:])
    torch.testing.assert_close(output, model.forward_features(x), rtol=1e-5, atol=1e-6)
    if checkpoints(model):
        torch.testing.assert_close(model.forward_intermediates(x)[0], output, rtol=1e-4, atol=1e-5)


def pruned(name):
    model = timm.create_model(name).eval()
    x = images_for(model)
    expected = model.forward_intermediates(x, indices=[1], intermediates_only=True)
    model.prune_intermediate_layers([1], prune_head=True)
    found = model.forward_intermediates(x, indices=[1], intermediates_only=True)
    torch.testing.assert_close(found, expected)


def traced(name):
    model = timm.create_model(name).eval()
    x = images_for(model)
    torch.testing.assert_close(graph_of(model)[1](x), model(x), rtol=1e-4, atol=1e-5)


def traced_backward(name):
    model = timm.create_model(name, num_classes=42).train()
    graph, run = graph_of(model)
    graph.train()
    assert_every_parameter_learns(model, images_for(model, 4), run)


def torchscript(name):
    torch.jit.script(timm.create_model(name).eval())


CHECKS = (
    forward, backward, configuration, features, features_by_getter, intermediates, pruned, traced, traced_backward,
    torchscript,
)  # fmt: skip


def why_not(check, name):
    return next((why for (c, pattern), why in EXCLUDED.items() if c == check and fnmatch(name, pattern)), None)


CASES = [(check, name) for check in CHECKS for name in NAMES if not why_not(check.__name__, name)]


@pytest.mark.parametrize(('check', 'name'), CASES, ids=lambda value: getattr(value, '__name__', value))
def test_timm_takes_the_model_for_one_of_its_own(check, name):
    check(name)


def test_every_method_and_every_exclusion_counts():
    assert {name for name in NAMES if not timm.is_model(name)} == set()
    assert {method for method in ROWS if not any(name.endswith(f'_{method}') for name in NAMES)} == set()
    for check, pattern in EXCLUDED:
        assert check in {c.__name__ for c in CHECKS}
        assert any(fnmatch(name, pattern) for name in NAMES)


@pytest.mark.parametrize(('check', 'name'), [(check, name) for check, name in EXCLUDED])
def test_what_is_excluded_still_fails(check, name):
    function = next(c for c in CHECKS if c.__name__ == check)
    first = next(n for n in NAMES if fnmatch(n, name))
    with pytest.raises(NotImplementedError):
        function(first)
