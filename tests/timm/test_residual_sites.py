"""The parts of residual sums, and the images, as places of every method: what arrives there, and what it reaches."""

import copy
import pickle

import pytest
import timm
import torch
import torchvision
from expected import LONELY
from nets import small
from since import CONTAINERS, WHOLE_GRAPHS
from timm.layers import convert_sync_batchnorm as timm_convert_sync_batchnorm
from timm.layers import freeze_batch_norm_2d
from torch import nn

import timm_stylenorm
from timm_stylenorm.errors import StyleNormWarning
from timm_stylenorm.layers import CrossNorm
from timm_stylenorm.methods import METHODS, Placement
from timm_stylenorm.surgery.sites import find_sites

pytestmark = LONELY
PARTS = ('residual', 'identity', 'pre', 'sum')
NETS = {  # name -> its parts, and the numbers of blocks with a residual sum
    'resnet18': (PARTS, 8),
    'resnet50': (PARTS, 16),
    'seresnet18': (PARTS, 8),
    'resnet26d': (PARTS, 8),
    'resnetv2_50': (('residual', 'pre', 'sum'), 16),
    'regnety_002': (PARTS, 13),
    'convnext_atto': (PARTS, 5),
    'mobilenetv3_small_100': (('residual', 'pre', 'sum'), 6),
    'torchvision resnet18': (PARTS, 8),
    'torchvision resnet50': (PARTS, 16),
}


def build(name):
    """A network whose branches all add something: hosts begin with zeros in their last norms."""
    torch.manual_seed(0)
    name, *of_torchvision = reversed(name.split())
    model = torchvision.models.get_model(name, num_classes=4) if of_torchvision else small(name, num_classes=4)
    for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm2d)):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
    return model.eval()


@pytest.fixture
def seen(monkeypatch):
    """Label -> what the layer there got."""
    found = {}

    def keep(layer, x):
        assert str(layer.attachment) not in found, 'once in a forward'
        found[str(layer.attachment)] = x.clone()
        return x

    monkeypatch.setattr(CrossNorm, 'restyle', keep)
    return found


def with_parts(model, parts):
    return timm_stylenorm.add_style(model, 'crossnorm', sites=[f'blocks.{part}' for part in parts])


def blocks_with_sums(model):
    return [site.label.removesuffix('.sum') for site in find_sites(model, 'blocks.sum')]


@pytest.mark.parametrize('name', NETS)
@pytest.mark.some(2)
def test_a_model_has_the_parts_in_all_blocks_with_a_sum(name):
    parts, count = NETS[name]
    rows = {row.name: row for row in timm_stylenorm.list_sites(build(name))}
    assert {row for row in rows if row in {f'blocks.{part}' for part in PARTS}} == {f'blocks.{p}' for p in parts}
    assert {len(rows[f'blocks.{part}'].modules) for part in parts} == {count}
    assert sum(len(rows[f'stage{i}.residual'].modules) for i in range(1, 5) if f'stage{i}.residual' in rows) == count


@pytest.mark.parametrize('name', NETS)
@pytest.mark.some(2)
def test_the_sum_is_that_of_the_main_branch_and_the_shortcut(name, seen):
    parts, _ = NETS[name]
    model = with_parts(build(name), parts)
    inputs, outputs = {}, {}
    for block in blocks_with_sums(model):
        module = model.get_submodule(block)
        module.register_forward_pre_hook(lambda m, args, block=block: inputs.__setitem__(block, args[0].clone()))
        module.register_forward_hook(lambda m, args, y, block=block: outputs.__setitem__(block, y.clone()))
    with torch.no_grad():
        model(torch.randn(2, 3, 64, 64))
    for block in inputs:
        at = {part: seen.get(f'crossnorm.{block}.{part}') for part in PARTS}
        preactivated = name == 'resnetv2_50' and block.endswith('.0')  # a projection takes what norm1 returns
        if not preactivated:
            assert torch.equal(at['pre'], inputs[block])
        if 'identity' in parts and not name.startswith('se'):  # attention comes after the norm
            torch.testing.assert_close(at['sum'], at['residual'] + at['identity'])
        if 'resnet' in name and 'v2' not in name:
            assert torch.equal(at['sum'].relu(), outputs[block])


@pytest.mark.parametrize('name', ['resnet18', 'torchvision resnet50', 'seresnet18'])
def test_what_arrives_at_residual_is_the_output_of_the_last_norm(name, seen):
    model, norms = build(name), {}
    last = 'bn3' if name.endswith('50') else 'bn2'
    for block in blocks_with_sums(model):
        norm = model.get_submodule(f'{block}.{last}')
        norm.register_forward_hook(lambda m, args, y, block=block: norms.__setitem__(block, y.clone()))
    plain = copy.deepcopy(model)
    with torch.no_grad():
        plain(images := torch.randn(2, 3, 64, 64))
        expected = dict(norms)
        with_parts(model, ['residual'])(images)
    assert len(expected) == len(seen)
    assert all(torch.equal(seen[f'crossnorm.{block}.residual'], y) for block, y in expected.items())


@pytest.mark.parametrize('name', ['resnet18', 'torchvision resnet18', 'convnext_atto'])
@pytest.mark.parametrize('part', PARTS)
@pytest.mark.some(3)
def test_what_a_layer_returns_goes_where_the_name_says(name, part, seen, monkeypatch):
    """The last block adds two branches; a layer that adds one moves the sum, and on `pre` the main branch's input."""
    model = with_parts(build(name), ['residual', 'sum'])
    block = blocks_with_sums(model)[-1]
    module, act = model.get_submodule(block), torch.relu if 'resnet' in name else nn.Identity()
    x = torch.randn(2, next(site.channels for site in find_sites(model, f'{block}.pre')), 6, 6)
    with torch.no_grad():
        module(x)
        main, total = seen.pop(f'crossnorm.{block}.residual'), seen.pop(f'crossnorm.{block}.sum')
        module(x + 1)
        moved = seen.pop(f'crossnorm.{block}.residual')
        timm_stylenorm.add_style(timm_stylenorm.remove_style(model), 'crossnorm', sites=f'{block}.{part}')
        monkeypatch.setattr(CrossNorm, 'restyle', lambda layer, x: x + 1)
        expected = total - main + moved if part == 'pre' else total + 1
        torch.testing.assert_close(module(x), act(expected), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('part', PARTS)
@pytest.mark.parametrize('name', ['resnet18', 'torchvision resnet50', 'resnetv2_50', 'convnext_atto'])
@pytest.mark.some(4)
def test_the_base_keeps_its_keys_and_comes_back(name, part):
    model, images = build(name), torch.randn(2, 3, 64, 64)
    keys, y = list(model.state_dict()), model(images)
    tree = [path for path, _ in model.named_modules()]
    if part not in NETS[name][0]:
        with pytest.raises(ValueError, match=r'PreActBottleneck. adds its own input, and has no module or place'):
            with_parts(model, [part])
    else:
        timm_stylenorm.add_style(model, ['crossnorm', 'mixstyle'][:0] or 'selfnorm', sites=f'blocks.{part}')
        assert [key for key in model.state_dict() if '.style.' not in key] == keys
        timm_stylenorm.remove_style(model)
    assert list(model.state_dict()) == keys
    assert [path for path, _ in model.named_modules()] == tree
    assert not any([*m._forward_hooks, *m._forward_pre_hooks] for m in model.modules())
    assert torch.equal(model(images), y)


def test_a_refused_style_leaves_no_module_at_the_empty_places():
    model = small('resnet18')
    with pytest.raises(ValueError, match='replaces norm layers'):
        timm_stylenorm.add_style(model, ['crossnorm', {'type': 'bin', 'sites': 'blocks.identity'}])
    assert model.layer1[0].downsample is None
    assert not list(timm_stylenorm.style_layers(model))


CONVERTERS = [nn.SyncBatchNorm.convert_sync_batchnorm, timm_convert_sync_batchnorm, freeze_batch_norm_2d]


@pytest.mark.parametrize(
    ('sites', 'convert'),
    [('blocks.residual', convert) for convert in CONVERTERS]
    + [('stages.*.pre', convert) for convert in CONVERTERS[1:]],
)
@pytest.mark.some(2)
def test_layers_at_norms_go_on_where_a_converter_puts_other_norms(sites, convert, monkeypatch):
    norms = {'norm_layer': 'batchnorm2d'} if sites.startswith('stages') else {}
    model = small('resnetv2_50', num_classes=4, **norms).eval() if norms else build('resnet18')
    timm_stylenorm.add_style(model, 'selfnorm', sites=sites)
    images = torch.randn(2, 3, 64, 64)
    expected = model(images)
    converted = convert(pickle.loads(pickle.dumps(model))).eval()
    assert not any(type(module) is nn.BatchNorm2d for module in converted.modules())
    monkeypatch.setattr(nn.SyncBatchNorm, '_check_input_dim', lambda norm, x: None)
    monkeypatch.setattr(nn.SyncBatchNorm, 'forward', nn.BatchNorm2d.forward)
    torch.testing.assert_close(converted(images), expected, rtol=1e-4, atol=1e-4)
    assert [str(layer.attachment) for _, layer in timm_stylenorm.style_layers(converted)] == [
        str(layer.attachment) for _, layer in timm_stylenorm.style_layers(model)
    ]


@pytest.mark.parametrize('order', [('bin', 'selfnorm'), ('selfnorm', 'bin')])
def test_a_norm_may_be_replaced_and_followed(order):
    model, images = build('resnet18'), torch.randn(2, 3, 64, 64)
    y = model(images)
    for name in order:
        timm_stylenorm.add_style(model, name, **({'sites': 'blocks.residual'} if name == 'selfnorm' else {}))
    assert not torch.allclose(model(images), y, rtol=1e-3, atol=1e-3)
    assert 'layer1.0.bn2.gate' in model.state_dict()
    assert 'layer1.0.bn2.style.selfnorm.g_fc.weight' in model.state_dict()
    names = [name for name, _ in timm_stylenorm.style_parameters(model)]
    assert len({*names}) == len(names)
    timm_stylenorm.remove_style(model)
    assert torch.equal(model(images), y)


@pytest.mark.parametrize('part', PARTS)
def test_copies_and_pickles_compute_the_same(part):
    model = timm_stylenorm.add_style(small('resnet18', num_classes=4), 'selfnorm', sites=f'blocks.{part}').eval()
    images = torch.randn(2, 3, 64, 64)
    y = model(images)
    assert torch.equal(copy.deepcopy(model)(images), y)
    assert torch.equal(pickle.loads(pickle.dumps(model))(images), y)


@pytest.mark.slow
@pytest.mark.parametrize('whole', [pytest.param(True, marks=WHOLE_GRAPHS), False])
@pytest.mark.parametrize('part', [pytest.param(p, marks=CONTAINERS if p == 'identity' else ()) for p in PARTS])
def test_compiled_models_compute_the_same(part, whole):
    model = timm_stylenorm.add_style(small('resnet18', num_classes=4), 'selfnorm', sites=f'blocks.{part}').eval()
    images = torch.randn(2, 3, 64, 64)
    compiled = torch.compile(model, fullgraph=whole, backend='eager')
    torch.testing.assert_close(compiled(images), model(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('part', PARTS)
@pytest.mark.some(2)
def test_checkpointing_changes_no_gradient(part):
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = timm_stylenorm.add_style(small('resnet18', num_classes=4), 'selfnorm', sites=f'blocks.{part}').train()
        model.set_grad_checkpointing(checkpointing)
        model(torch.randn(2, 3, 64, 64)).square().sum().backward()
        gradients.append({k: p.grad for k, p in model.named_parameters()})
    for key, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][key], gradient, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('method', [name for name, row in METHODS.items() if row.placement is not Placement.REPLACE])
@pytest.mark.parametrize('sites', [*(f'stage2.{part}' for part in PARTS), 'layer?.1.residual', 'input'])
@pytest.mark.some(15)
def test_every_method_that_follows_modules_takes_them(method, sites):
    model = timm_stylenorm.add_style(small('resnet18', num_classes=4), method, sites=sites).train()
    model(torch.randn(4, 3, 64, 64)).sum().backward()
    assert [layer.attachment.method for _, layer in timm_stylenorm.style_layers(model)]


@pytest.mark.filterwarnings('error:torch before 2.6')
def test_a_compiler_that_leaves_out_containers_is_told_of_once(monkeypatch):
    monkeypatch.setattr('timm_stylenorm.surgery.site.BEFORE_2_6', True)
    timm_stylenorm.add_style(small('resnet18'), 'padain', sites=('blocks.residual', 'stage1'))
    with pytest.warns(
        StyleNormWarning, match=r"leaves out 3 style layers .*'layer2\.0\.downsample', an nn\.Seq"
    ) as told:
        timm_stylenorm.add_style(small('resnet18'), 'padain', sites='blocks.identity')
    assert len(told) == 1
    monkeypatch.setattr('timm_stylenorm.surgery.site.BEFORE_2_6', False)
    timm_stylenorm.add_style(small('resnet18'), 'padain', sites='blocks.identity')


def test_the_images_are_a_place(seen):
    model = timm_stylenorm.add_style(small('resnet18'), 'crossnorm', sites='input').eval()
    images = torch.randn(2, 3, 64, 64)
    y = model(images)
    assert torch.equal(seen['crossnorm.input'], images)
    assert list(model.state_dict()) == list(small('resnet18').state_dict())
    assert torch.equal(timm_stylenorm.remove_style(model)(images), y)


def test_images_that_have_a_name_are_refused_at_the_place_of_the_first_argument():
    model = timm_stylenorm.add_style(small('resnet18'), 'crossnorm', sites='input')
    with pytest.raises(TypeError, match=r'crossnorm\.input.*by position'):
        model(x=torch.randn(2, 3, 64, 64))


@pytest.mark.parametrize(
    ('arch', 'site', 'message'),
    [
        ('swin_tiny_patch4_window7_224', 'blocks.residual', 'SwinTransformerBlock. has 2 sums, none of a whole branch'),
        ('densenet121', 'blocks.sum', 'no block of DenseNet there has a residual sum'),
        ('vgg16_bn', 'blocks.sum', 'the stages of VGG do not consist of blocks'),
        ('mobilenetv3_small_100', 'blocks.identity', 'adds its own input, and has no module or place for one there'),
        ('resnet18', 'layer9.0.residual', "no site 'layer9.0.residual'"),
        ('resnet18', 'stage1.residuals', "no site 'stage1.residuals'; did you mean 'stage1.residual'"),
    ],
)
def test_missing_parts_are_told(arch, site, message):
    with pytest.raises(ValueError, match=message):
        find_sites(small(arch), site)


def test_a_model_that_cannot_be_run_on_meta_is_told():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = timm.create_model('resnet18')
            self.layer1, self.layer2 = self.net.layer1, self.net.layer2

        def forward(self, a, b):
            return self.net(a + b)

    with pytest.raises(ValueError, match='no forward of Net could be run'):
        find_sites(Net(), 'blocks.residual')
