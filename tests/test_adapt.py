"""AdaBN: statistics of the target images, everything else untouched."""

import pytest
import timm
import torch
from torch import nn
from torch.optim.swa_utils import update_bn

import timm_stylenorm
from timm_stylenorm.adapt import adabn
from timm_stylenorm.layers import BatchInstanceNorm2d


def net():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5))


def batches(count=3, n=4):
    return [torch.randn(n, 3, 8, 8) * 2 + 1 for _ in range(count)]


def test_full_adaptation_equals_torchs_update_bn():
    model, images = net().eval(), batches()
    expected = net()
    expected.load_state_dict(model.state_dict())
    update_bn(images, expected)
    adabn(model, images)
    assert not model.training
    for name, buffer in expected.named_buffers():
        torch.testing.assert_close(model.get_buffer(name), buffer)


def test_partial_adaptation_moves_by_the_momentum():
    model, (images,) = net(), batches(1)
    model[1].running_mean.fill_(3)
    adabn(model, [images], momentum=0.25)
    target = model[0](images).mean((0, 2, 3))
    torch.testing.assert_close(model[1].running_mean, 0.75 * 3 + 0.25 * target.detach())
    assert model[1].momentum == 0.1


def test_style_layers_do_not_act_and_modes_stay():
    model = timm_stylenorm.add_style(timm.create_model('resnet18'), 'padain', p=1.0).train()
    model.layer1.eval()
    modes = [m.training for m in model.modules()]
    called = []
    for _, layer in timm_stylenorm.style_layers(model):
        layer.register_forward_hook(lambda m, a, y: called.append(y is a[0]))
    adabn(model, [(torch.randn(2, 3, 32, 32), torch.tensor([0, 1]))])
    assert len(called) == 17
    assert all(called)
    assert [m.training for m in model.modules()] == modes


def test_batch_instance_norm_adapts_too():
    model = nn.Sequential(BatchInstanceNorm2d(3))
    images = torch.randn(8, 3, 4, 4) + 5
    adabn(model, [{'inputs': images}])
    torch.testing.assert_close(model[0].running_mean, images.mean((0, 2, 3)))


def test_max_batches_and_forward():
    model, seen = net(), []
    adabn(model, batches(5), max_batches=2, forward=lambda batch: seen.append(model(batch)))
    assert len(seen) == 2


@pytest.mark.parametrize(
    ('model', 'data', 'kwargs', 'message'),
    [
        (nn.Conv2d(3, 3, 1), batches(), {}, 'Conv2d has no batch norm'),
        (net(), [], {}, 'no batch to estimate'),
        (net(), batches(), {'momentum': 2.0}, 'got 2.0'),
    ],
)
def test_impossible_calls_are_named(model, data, kwargs, message):
    with pytest.raises(ValueError, match=message):
        adabn(model, data, **kwargs)


def test_a_failure_puts_the_old_statistics_back():
    model = net()
    model[1].running_mean.fill_(3)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(RuntimeError):
        adabn(model, [*batches(2), torch.randn(2, 7, 8, 8)])
    assert all(torch.equal(model.state_dict()[k], v) for k, v in before.items())
