"""AdaBN: statistics of the target images, everything else untouched."""

import pytest
import torch
from nets import small
from torch import nn
from torch.optim.swa_utils import update_bn

import timm_stylenorm
from timm_stylenorm.adapt import adabn, batch_norms, get_statistics, set_statistics
from timm_stylenorm.dual_bn import convert_dual_bn
from timm_stylenorm.layers import IBN, BatchInstanceNorm2d, SelfNorm


def net():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5))


def batches(count=3, n=4):
    return [torch.randn(n, 3, 8, 8) * 2 + 1 for _ in range(count)]


def test_one_batch_gives_what_torchs_update_bn_gives():
    model, images = net().eval(), batches(1)
    expected = net()
    expected.load_state_dict(model.state_dict())
    update_bn(images, expected)
    assert adabn(model, images) is model
    assert not model.training
    for name, buffer in expected.named_buffers():
        torch.testing.assert_close(model.get_buffer(name), buffer)


@pytest.mark.parametrize('size', [1, 3, 12])
def test_full_adaptation_gives_the_moments_of_all_images_however_they_are_batched(size):
    images = torch.randn(12, 3, 8, 8) * 2 + 5 * torch.randn(12, 3, 1, 1)  # as different as images of a domain are
    model = nn.Sequential(nn.BatchNorm2d(3))
    adabn(model, images.split(size))
    torch.testing.assert_close(model[0].running_mean, images.mean((0, 2, 3)))
    torch.testing.assert_close(model[0].running_var, images.var((0, 2, 3)), rtol=0.02, atol=0)
    assert model[0].num_batches_tracked == 12 // size


def test_each_image_counts_the_same_where_batches_differ_in_size():
    images = torch.randn(5, 3, 8, 8) + torch.arange(5.0).view(5, 1, 1, 1)
    model = nn.Sequential(nn.BatchNorm2d(3))
    adabn(model, [images[:4], images[4:]])
    torch.testing.assert_close(model[0].running_mean, images.mean((0, 2, 3)))


def test_partial_adaptation_moves_by_the_momentum():
    model, (images,) = net(), batches(1)
    model[1].running_mean.fill_(3)
    adabn(model, [images], momentum=0.25)
    target = model[0](images).mean((0, 2, 3))
    torch.testing.assert_close(model[1].running_mean, 0.75 * 3 + 0.25 * target.detach())
    assert model[1].momentum == 0.1


def test_style_layers_do_not_act_and_modes_stay():
    model = timm_stylenorm.add_style(small('resnet18'), 'padain', p=1.0).train()
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


class Mapped(nn.Module):
    """A model whose batches are its keyword arguments."""

    def __init__(self):
        super().__init__()
        self.net = net()

    def forward(self, pixels, ids=None):
        return self.net(pixels)


FORMS = {
    'pair': lambda x: (x, torch.zeros(len(x))),
    **{key: lambda x, key=key: {'labels': torch.zeros(len(x)), key: x} for key in ('inputs', 'pixel_values', 'image')},
    'list': lambda x: list(x),
}


@pytest.mark.parametrize('form', FORMS)
def test_batches_have_the_forms_of_many_loaders(form):
    x, model, twin = batches(3), net(), net()
    twin.load_state_dict(model.state_dict())
    adabn(model, x)
    forward = (lambda batch: twin(torch.stack(batch))) if form == 'list' else None
    adabn(twin, [x[0][:0], *map(FORMS[form], x[:2]), FORMS[form](x[2][:0]), FORMS[form](x[2])], forward=forward)
    torch.testing.assert_close(get_statistics(twin), get_statistics(model))


def test_with_a_forward_of_its_own_a_batch_may_be_anything():
    x, model = batches(3), Mapped()
    twin = net()
    twin.load_state_dict(model.net.state_dict())
    adabn(model, [{'ids': ['a'] * len(y), 'pixels': y} for y in x], forward=lambda batch: model(**batch))
    torch.testing.assert_close(get_statistics(model), get_statistics(adabn(twin, x)))
    with pytest.raises(ValueError, match=r"keys \['ids', 'pixels'\], none of which is inputs, pixel_values"):
        adabn(model, [{'ids': [], 'pixels': y} for y in x])


def test_a_norm_that_is_called_twice_counts_both_calls():
    norm = nn.BatchNorm2d(3)
    model = nn.Sequential(norm, nn.Identity(), norm)
    images = torch.randn(8, 3, 4, 4) + 4
    adabn(model, [images])
    torch.testing.assert_close(norm.running_mean, images.mean((0, 2, 3)) / 2, atol=1e-5, rtol=0)  # the second sees 0


def test_a_norm_that_no_image_reaches_keeps_its_statistics():
    model = net()
    model.auxiliary = nn.BatchNorm2d(7)
    model.auxiliary.running_mean.fill_(3)
    adabn(model, batches(), forward=lambda batch: model[:3](batch))
    assert (model.auxiliary.running_mean == 3).all()
    assert model.auxiliary.num_batches_tracked == 0
    assert model[1].num_batches_tracked == 3
    assert (model[4].running_mean == 0).all()


@pytest.mark.parametrize('synced', [False, True])
def test_dual_batch_norms_adapt_as_plain_ones_and_keep_the_auxiliary_statistics(synced, monkeypatch):
    plain, images = net().eval(), batches()
    dual = convert_dual_bn(net())
    dual.load_state_dict(plain.state_dict())
    dual = (nn.SyncBatchNorm.convert_sync_batchnorm(dual) if synced else dual).eval()
    before = {name: buffer.clone() for name, buffer in dual.named_buffers() if 'aux_bn' in name}
    with monkeypatch.context() as patch:
        patch.setattr(nn.SyncBatchNorm, 'forward', lambda *args: pytest.fail('would wait for other processes'))
        adabn(plain, images), adabn(dual, images)
    assert torch.equal(dual(images[0]), plain(images[0]))
    assert all(torch.equal(buffer, dual.get_buffer(name)) for name, buffer in before.items())


@pytest.mark.parametrize('layer', [nn.BatchNorm2d(4), BatchInstanceNorm2d(4), IBN(4), SelfNorm(4), SelfNorm(4, True)])
def test_single_values_are_pooled_too(layer):
    images = torch.randn(12, 4, 1, 1) * 3 + 2
    pooled = []
    for size in (1, 12):
        adabn(nn.Sequential(layer), images.split(size))
        pooled += [v.clone() for v in get_statistics(layer)[0].values()]
    torch.testing.assert_close(pooled[0], pooled[3])
    torch.testing.assert_close(pooled[1], pooled[4] * 11 / 12)  # the estimate from all at once is unbiased
    assert 'forward' not in vars(layer)


@pytest.mark.parametrize('momentum', [None, 0.1])
def test_the_norms_inside_selfnorm_and_ibn_adapt(momentum):
    model = nn.Sequential(IBN(4), SelfNorm(4)).eval()
    images = torch.randn(8, 4, 4, 4) * 3 + 5
    adabn(model, [images], momentum)
    for norm in batch_norms(model):
        assert norm.num_batches_tracked == 1
        assert (norm.running_var != 1).all()
    assert not any(m.training for m in model.modules())


def test_synchronised_norms_need_neither_a_gpu_nor_other_processes():
    model = nn.SyncBatchNorm.convert_sync_batchnorm(net())
    images = batches(1)
    plain = net()
    plain.load_state_dict(model.state_dict())
    adabn(model, images)
    adabn(plain, images)
    assert type(model[1]) is nn.SyncBatchNorm
    assert 'forward' not in vars(model[1])
    assert all(torch.equal(v, plain.state_dict()[k]) for k, v in model.state_dict().items())


def test_statistics_can_be_kept_and_put_back():
    model = net()
    source = {k: v.clone() for k, v in model.state_dict().items()}
    statistics = get_statistics(model)
    adabn(model, batches())
    assert not torch.equal(model[1].running_mean, source['1.running_mean'])
    set_statistics(model, statistics)
    assert all(torch.equal(v, source[k]) for k, v in model.state_dict().items())


def test_adaptation_undoes_a_shift_of_colours():
    """Each class has its own contrast between channels; the target domain has other gains and offsets."""
    labels = torch.arange(400) % 3
    patterns = torch.tensor([[1.0, 0.0, -1.0], [-1.0, 1.0, 0.0], [0.0, -1.0, 1.0]])
    images = patterns[labels][:, :, None, None] + 0.5 * torch.randn(400, 3, 4, 4)
    shifted = images * torch.tensor([0.3, 2.0, 1.0]).view(3, 1, 1) + torch.tensor([2.0, -1.0, 0.5]).view(3, 1, 1)
    model = nn.Sequential(
        nn.BatchNorm2d(3), nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 3),
    )  # fmt: skip
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    for part in torch.arange(400).split(50) * 4:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images[part]), labels[part]).backward()
        optimizer.step()

    def accuracy(x):
        return (model.eval()(x).argmax(1) == labels).float().mean().item()

    assert accuracy(images) > 0.95
    assert accuracy(shifted) < 0.7
    adabn(model, shifted.split(50))
    assert accuracy(shifted) > 0.95


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
