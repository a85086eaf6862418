"""What moves and computes in the networks of FADA's and MaxSquare's authors: each fact is run, not read."""

from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from torch import nn

pytest.importorskip('mmseg')
from mmengine.optim import build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS
from mmseg.registry import MODELS
from test_uda_configs import narrow
from uda_recipes import FADA, MAXSQUARE, MULTI, SOURCE, SOURCE_FADA, load

from timm_stylenorm.runner import distributed


def listed(backbone):
    """How often the generator of the authors' `get_1x_lr_params_NOscale` yields each parameter of a backbone."""
    parts = [backbone.conv1, *(getattr(backbone, f'layer{k}') for k in range(1, 5))]
    return Counter(p for part in parts for module in part.modules() for p in module.parameters())


@pytest.mark.parametrize('name', [SOURCE, MAXSQUARE, MULTI])
def test_each_parameter_has_the_rate_at_which_the_authors_optimizer_moves_it(name):
    cfg = narrow(load(name))
    model = MODELS.build(cfg.model)
    counts = listed(model.backbone)
    assert set(counts.values()) == {1, 3, 4}
    heads = {p for head in (model.decode_head, *getattr(model, 'auxiliary_heads', [])) for p in head.parameters()}
    rates = {
        p: group['lr'] for group in build_optim_wrapper(model, cfg.optim_wrapper).param_groups for p in group['params']
    }
    assert len(heads) == (8 if name == MULTI else 4)
    assert all(rates[p] == pytest.approx(2.5e-3) for p in heads)
    assert all(rates[p] == pytest.approx(2.5e-4 * count) for p, count in counts.items())
    fixed = set(model.parameters()) - heads - set(counts)
    assert fixed == set(model.backbone.bn1.parameters())
    assert {rates[p] for p in fixed} == {0}


@pytest.mark.filterwarnings('ignore:optimizer contains a parameter group with duplicate parameters')
@pytest.mark.parametrize('count', [3, 4])
def test_a_parameter_that_is_listed_several_times_moves_as_far_as_at_that_many_times_the_rate(count):
    moved = []
    for times, factor in ((count, 1), (1, count)):
        p, places = nn.Parameter(torch.zeros(1)), []
        optimizer = torch.optim.SGD([{'params': [p] * times}], lr=1e-3 * factor, momentum=0.9)
        for _ in range(200):
            places.append(p.item())
            p.grad = torch.ones(1)
            optimizer.step()
        moved.append((places[100] - places[199]) / 99)
    assert moved[0] == pytest.approx(moved[1], rel=1e-3) == pytest.approx(1e-2 * count, rel=1e-3)


def dilations_that_act(model, image):
    """Of the 3x3 convolutions that run in a forward pass, by the part of the network."""
    ran = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
            part = name.split('.')[1 if name.startswith('backbone') else 0]
            module.register_forward_hook(lambda m, *_, part=part: ran.setdefault(part, []).append(m.dilation[0]))
    model(image)
    return ran


@pytest.mark.parametrize('name', [SOURCE_FADA, SOURCE])
def test_dilations_that_act_in_a_forward_are_the_authors(name):
    cfg = narrow(load(name))
    ran = dilations_that_act(MODELS.build(cfg.model).eval(), torch.zeros(1, 3, 32, 64))
    late = [2] * 6 + [4] * 3 if name == SOURCE else [1] + [2] * 5 + [2] + [4] * 2
    assert ran['decode_head'] == ([6, 12] if name == SOURCE else [6, 12, 18, 24])
    assert ran['layer3'] + ran['layer4'] == late


@pytest.mark.parametrize(('name', 'sizes'), [(SOURCE_FADA, [(180, 320), (90, 160)]), (SOURCE, [(181, 321), (91, 161)])])
def test_maps_are_of_the_size_that_the_authors_pooling_gives(name, sizes):
    cfg = load(name)
    distributed._sync_bn_to_bn(cfg.model)
    with torch.device('meta'):
        maps = MODELS.build(cfg.model).backbone(torch.zeros(1, 3, 720, 1280))
    assert [tuple(x.shape[2:]) for x in maps] == [sizes[0], *[sizes[1]] * 3]
    assert [x.shape[1] for x in maps] == [256, 512, 1024, 2048]


def test_the_authors_initial_weights_go_into_the_backbone_whole(tmp_path):
    cfg = load(SOURCE)
    init = cfg.model.backbone.init_cfg
    narrow(cfg)
    backbone = MODELS.build(cfg.model).backbone
    weights = {f'Scale.{key}': torch.randn(value.shape) for key, value in backbone.state_dict().items()}
    torch.save({**weights, 'Scale.layer5.conv2d_list.0.weight': torch.zeros(1)}, tmp_path / 'init.pth')
    cfg.model.backbone.init_cfg = {**init, 'checkpoint': str(tmp_path / 'init.pth')}
    backbone = MODELS.build(cfg.model).backbone
    backbone.init_weights()
    for key, value in backbone.state_dict().items():
        assert torch.equal(value, weights[f'Scale.{key}'].to(value)), key


@pytest.mark.parametrize('name', [SOURCE_FADA, SOURCE])
def test_the_loss_is_the_mean_over_labelled_pixels(name):
    model = MODELS.build(narrow(load(name)).model)
    logits, labels = torch.randn(1, 19, 8, 8), torch.randint(0, 19, (1, 8, 8))
    labels[:, :3] = 255
    loss = model.decode_head.loss_decode(logits, labels, ignore_index=255)
    torch.testing.assert_close(loss, F.cross_entropy(logits, labels, ignore_index=255))


STEPS = {  # first rate, last step, length of the schedule
    SOURCE_FADA: (5e-4, 20000, 31250),
    FADA: (2.5e-4, 40000, 62500),
    'fada-distill_4xb2-20k_cityscapes-512x1024': (5e-4, 20000, 31250),
    'fada-padain-distill_4xb2-40k_cityscapes-512x1024': (5e-4, 40000, 41250),
    'fada-distill_4xb2-20k_synthia2cityscapes-512x1024': (5e-4, 20000, 31250),
    SOURCE: (2.5e-4, 80000, 200000),
    MAXSQUARE: (2.5e-4, 29750, 29760),
}


@pytest.mark.parametrize('name', STEPS)
@pytest.mark.some(2)
def test_the_rate_falls_by_the_authors_schedule_until_their_last_step(name):
    """Within 1e-4 of the first rate: mmengine's schedule of n steps ends one step early."""
    rate, last, length = STEPS[name]
    cfg = load(name)
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=cfg.optim_wrapper.optimizer.lr)
    (options,) = cfg.param_scheduler
    scheduler = PARAM_SCHEDULERS.build({**options, 'optimizer': optimizer})
    optimizer.step()
    for step in range(cfg.train_cfg.max_iters):
        assert optimizer.param_groups[0]['lr'] == pytest.approx(rate * (1 - step / length) ** 0.9, abs=1e-4 * rate)
        scheduler.step()
    assert step == last - 1
