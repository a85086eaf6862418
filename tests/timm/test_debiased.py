"""Shape-texture debiased training against the reference vectors, and what it does to a model."""

import pytest
import timm
import torch
import torch.nn.functional as F
from golden_data import assert_matches, load
from nets import small
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import nn

from timm_stylenorm.dual_bn import routed
from timm_stylenorm.errors import StyleNormWarning
from timm_stylenorm.evaluation.attacks import fgsm
from timm_stylenorm.layers import DualBatchNorm2d
from timm_stylenorm.recipes import DebiasedRecipe, LossTerm, build_recipe, debiased
from timm_stylenorm.recipes.stylisers import Styliser

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


class Swap(Styliser):
    """The style image itself; keeps what it got."""

    def __call__(self, content, style, alpha=1.0):
        self.seen, self.index = content, style
        return content[style]


def summed(forward):
    """A host's `forward_loss` with cross-entropy."""

    def forward_loss(images, parts):
        logits, losses = forward(images), {}
        for part in parts:
            name = part.label('loss_cls')
            losses[name] = losses.get(name, 0) + part.weight * F.cross_entropy(logits[part.rows], part.target)
        return losses

    return forward_loss


def permutations(monkeypatch, *given):
    left = iter(given)
    monkeypatch.setattr(torch, 'randperm', lambda n, device=None: next(left).to(device))


@pytest.fixture
def data():
    return load('shape_texture_a')


def mixed_loss(logits, label_a, label_b, weight):
    ce = [F.cross_entropy(logits, label, reduction='none') for label in (label_a, label_b)]
    return ((1 - weight) * ce[0] + weight * ce[1]).mean()


@pytest.mark.parametrize('soft', [False, True])
def test_the_loss_is_the_authors(data, soft, monkeypatch):
    permutations(monkeypatch, data['style_index'])
    logits = data['logits'].requires_grad_()
    target = F.one_hot(data['label'], 6).float() if soft else data['label']
    recipe = DebiasedRecipe(Swap(), gamma=float(data['gamma']))
    losses = recipe.losses(nn.Module(), data['images'][:4], target, summed(lambda images: logits))
    assert set(losses) == {'loss_cls', 'stylised.loss_cls'}
    loss = sum(losses.values())
    assert_matches(loss, data['loss'])
    assert_matches(torch.autograd.grad(loss, logits)[0], data['grad_logits'])


def test_labels_and_weights_are_the_authors(data, monkeypatch):
    permutations(monkeypatch, data['style_index'])
    seen = []
    recipe = DebiasedRecipe(Swap())
    recipe.losses(nn.Module(), data['images'][:4], data['label'], lambda images, parts: seen.extend(parts) or {})
    first, shape, texture = seen
    torch.testing.assert_close(torch.cat([first.target, shape.target]), data['label_a'])
    torch.testing.assert_close(torch.cat([data['label'][data['style_index']], texture.target]), data['label_b'])
    assert (first.rows, shape.rows, texture.rows) == (slice(0, 4), slice(4, 8), slice(4, 8))
    weights = torch.tensor([first.weight, shape.weight, texture.weight])
    torch.testing.assert_close(weights, torch.tensor([0.5, 0.4, 0.1]))


@pytest.mark.parametrize('kind', ['mixup', 'cutmix'])
def test_mixup_and_cutmix_are_the_authors(data, kind, monkeypatch):
    """Images, labels and weights of the clean half; the styliser gets the images as they were."""
    permutations(monkeypatch, data['style_index'], data['mixup_index'])
    monkeypatch.setattr(debiased, 'beta', lambda alpha, n, like: data['mixup_lambda'].view(1))
    centre = iter(data['cutmix_centre'])
    monkeypatch.setattr(torch, 'randint', lambda high, size: next(centre))
    styliser = Swap()
    recipe = DebiasedRecipe(styliser, **{kind: 0.4})
    recipe.prepare(nn.Sequential(nn.BatchNorm2d(3)), mean=MEAN, std=STD)
    clean = (data['images'][:4] - recipe.mean) / recipe.std
    got = {}

    def forward(images):
        got['images'] = images * recipe.std + recipe.mean
        return data['logits']

    loss = sum(recipe.losses(nn.Module(), clean, data['label'], summed(forward)).values())
    torch.testing.assert_close(got['images'][:4], data[f'{kind}_images'][:4], rtol=0, atol=1e-5)
    torch.testing.assert_close(styliser.seen, data['images'][:4], rtol=0, atol=1e-5)
    want = mixed_loss(data['logits'], data['label_a'], data[f'{kind}_label_b'], data[f'{kind}_weight'])
    torch.testing.assert_close(loss, want)


def test_cutmix_boxes_end_at_the_edge():
    images = torch.stack([torch.zeros(1, 4, 6), torch.ones(1, 4, 6)])
    mixed, share = debiased.cutmix(images, torch.tensor([1, 0]), 1.0, (0, 5))
    want = torch.zeros(4, 6)
    want[:2, 2:] = 1
    torch.testing.assert_close(mixed[0, 0], want)
    torch.testing.assert_close(mixed[1, 0], 1 - want)
    assert share == 8 / 24


def test_fgsm_is_the_authors(data):
    """The arrays of the reference, by their linear model."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(90, 6))
    model[1].load_state_dict({'weight': data['fgsm_weight'], 'bias': data['fgsm_bias']})
    x = data['fgsm_x'].requires_grad_()
    loss = -model(x).gather(1, data['fgsm_target'][:, None]).mean()
    assert_matches(loss, data['fgsm_loss'])
    assert_matches(torch.autograd.grad(loss, x)[0], data['fgsm_grad'])
    torch.testing.assert_close(16 / 255 / torch.tensor(IMAGENET_DEFAULT_STD), data['fgsm_eps'])
    attacked = fgsm(model, x, data['fgsm_target'], IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
    assert_matches(attacked, data['fgsm_x_adv'])
    assert not attacked.requires_grad
    assert model[1].weight.grad is None


@pytest.mark.parametrize('name', ['debiased', 'shape_biased', 'texture_biased'])
def test_each_recipe_trains_all_parameters_in_one_step(name):
    net = small('resnet18', num_classes=5, zero_init_last=False)
    recipe = build_recipe({'type': name, 'styliser': 'pixel'})
    recipe.prepare(net, mean=MEAN, std=STD)
    losses = recipe.losses(net, torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 3]), summed(net))
    assert set(losses) == {'loss_cls', 'stylised.loss_cls'}
    sum(losses.values()).backward()
    assert [k for k, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize(('name', 'share'), [('debiased', 0.8), ('shape_biased', 1.0), ('texture_biased', 0.0)])
def test_gamma_is_the_share_of_the_shape(name, share, monkeypatch):
    permutations(monkeypatch, torch.tensor([1, 0]))
    logits = torch.randn(4, 5)
    recipe = build_recipe({'type': name, 'styliser': 'pixel'})
    labels = torch.tensor([3, 1])
    loss = recipe.losses(nn.Module(), torch.rand(2, 3, 8, 8), labels, summed(lambda images: logits))[
        'stylised.loss_cls'
    ]
    want = share * F.cross_entropy(logits[2:], labels) + (1 - share) * F.cross_entropy(logits[2:], labels.flip(0))
    torch.testing.assert_close(loss, want / 2)


def test_each_half_passes_through_its_own_batch_norm():
    norm = nn.BatchNorm2d(3)
    net = nn.Sequential(norm)
    recipe = DebiasedRecipe('pixel', alpha=1.0)
    recipe.prepare(net, mean=MEAN, std=STD)
    norm, got = net[0], {}

    def forward(images):
        got['in'], got['out'] = images, net(images)
        return got['out'].mean((2, 3))

    recipe.losses(net, torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 0]), summed(forward))
    for half, own in ((slice(0, 4), norm), (slice(4, 8), norm.aux_bn)):
        torch.testing.assert_close(own.running_mean, 0.1 * got['in'][half].mean((0, 2, 3)))
        torch.testing.assert_close(got['out'][half].mean((0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-5)


def test_evaluation_is_the_plain_model():
    net = small('resnet18', num_classes=5).eval()
    x, labels = torch.randn(2, 3, 32, 32), torch.tensor([0, 1])
    plain = net(x)
    recipe = DebiasedRecipe('pixel')
    recipe.prepare(net)
    losses = recipe.losses(net, x, labels, summed(net))
    torch.testing.assert_close(losses, {'loss_cls': F.cross_entropy(plain, labels)})


def test_the_styliser_sees_values_from_0_to_1_and_the_model_normalised_ones(monkeypatch):
    permutations(monkeypatch, torch.tensor([1, 2, 0]))
    styliser, net = Swap(), nn.Sequential(nn.BatchNorm2d(3))
    recipe = DebiasedRecipe(styliser)
    recipe.prepare(net, mean=MEAN, std=STD)
    x = torch.rand(3, 3, 8, 8)
    normal = (x - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    got = []
    recipe.losses(net, normal, torch.arange(3), lambda images, parts: got.append(images) or {})
    torch.testing.assert_close(styliser.seen, x)
    torch.testing.assert_close(got[0], torch.cat([normal, normal[[1, 2, 0]]]))


def test_one_image_takes_its_own_style():
    x = torch.rand(1, 3, 16, 16)
    torch.testing.assert_close(DebiasedRecipe('pixel').stylise(x, torch.randperm(1)), x, rtol=0, atol=1e-4)


class Sizes(Styliser):
    """Leaves images as they are."""

    def __call__(self, content, style, alpha=1.0):
        return content


def sizes_seen(recipe, images, epochs, batches=4):
    """Epoch -> the sizes of the stylised images that a network saw in its first batches."""
    net = nn.Sequential(nn.BatchNorm2d(3))
    recipe.prepare(net)
    labels, seen = torch.zeros(len(images), dtype=torch.long), {}
    for epoch in epochs:
        recipe.set_progress(epoch / epochs[-1])
        seen[epoch] = []
        for _ in range(batches):
            passes = []
            recipe.losses(net, images, labels, lambda x, parts, passes=passes: passes.append(tuple(x.shape)) or {})
            whole = passes[0][0] == 2 * len(images)  # one pass with both halves
            assert len(passes) == (1 if whole else 2)
            assert passes[0][2:] == images.shape[2:]
            seen[epoch].append(passes[-1][2:])
    return seen


def authors_size(batch, epoch, schedule, epochs, min_size):
    """What the authors' `img_size_scheduler` says of images of 224 pixels."""
    times = [0, *schedule, epochs]
    (i,) = [i for i in range(len(times) - 1) if times[i] <= epoch < times[i + 1]]
    size = 224.0 / 2 ** (0.5 * (batch % 2 == 0))
    if epoch < (times[i] + times[i + 1]) / 2:
        size /= 2**0.5
    return max(int(size + 0.5), min_size)


@pytest.mark.parametrize(
    ('schedule', 'epochs', 'min_size'), [((30, 60, 90), 100, 112), ((60, 120, 160), 180, 200)], ids=['r50', 'mixup']
)
def test_multi_grid_shows_the_network_the_sizes_of_the_authors(schedule, epochs, min_size):
    recipe = DebiasedRecipe(Sizes(), multi_grid=(*schedule, epochs), min_size=min_size)
    seen = sizes_seen(recipe, torch.rand(2, 3, 224, 224), range(epochs + 1))
    del seen[epochs]
    for epoch, got in seen.items():
        assert got == [(authors_size(b, epoch, schedule, epochs, min_size),) * 2 for b in range(4)], epoch
    assert {size for sizes in seen.values() for size in sizes} == (
        {(224, 224), (158, 158), (112, 112)} if min_size == 112 else {(224, 224), (200, 200)}
    )


def test_multi_grid_keeps_the_shape_of_images_and_does_not_enlarge_small_ones():
    recipe = DebiasedRecipe(Sizes(), multi_grid=(10,), min_size=16)
    assert sizes_seen(recipe, torch.rand(2, 3, 32, 64), range(11))[0] == [(16, 32), (23, 45)] * 2
    recipe = DebiasedRecipe(Sizes(), multi_grid=(10,))
    assert sizes_seen(recipe, torch.rand(2, 3, 32, 64), range(11))[0] == [(32, 64)] * 4


def test_two_passes_give_the_losses_of_one(monkeypatch):
    """Each half goes through its batch norms, with its labels and weights, whether alone or with the other."""
    net = small('resnet18', num_classes=5, zero_init_last=False).double()
    recipe = DebiasedRecipe(Sizes(), multi_grid=(1,), min_size=16)
    recipe.prepare(net)
    x, labels = torch.rand(4, 3, 32, 32).double(), torch.arange(4)
    index, small_x = torch.tensor([2, 0, 3, 1]), F.interpolate(x, (23, 23))
    permutations(monkeypatch, index)
    recipe.set_progress(0.9)
    got = recipe.losses(net, x, labels, summed(net))
    with routed(net, 'adversarial'):
        logits = net(small_x)
    want = 0.4 * F.cross_entropy(logits, labels) + 0.1 * F.cross_entropy(logits, labels[index])
    torch.testing.assert_close(got, {'loss_cls': 0.5 * F.cross_entropy(net(x), labels), 'stylised.loss_cls': want})


def test_multi_grid_must_be_told_of_the_progress():
    recipe = DebiasedRecipe('pixel', multi_grid=(10,))
    net = nn.Sequential(nn.BatchNorm2d(3))
    passes = []
    with pytest.warns(StyleNormWarning, match=r'recipe\.set_progress\(epoch / epochs\)'):
        recipe.losses(net, torch.rand(2, 3, 224, 224), torch.arange(2), lambda x, parts: passes.append(x) or {})
    assert passes[1].shape[2:] == (112, 112)


@pytest.mark.parametrize('times', [(), (0, 30), (60, 30), (30, 30)])
def test_times_of_multi_grid_rise(times):
    with pytest.raises(ValueError, match='rising times'):
        DebiasedRecipe('pixel', multi_grid=times)


def test_a_seed_gives_the_same_losses():
    net = small('resnet18', num_classes=5)
    recipe = DebiasedRecipe('fourier', multi_grid=(1,), min_size=16, cutmix=1.0)
    recipe.prepare(net)
    x, labels = torch.rand(4, 3, 32, 32), torch.arange(4)
    runs = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        recipe.set_progress(0.0)
        runs.append({k: v.item() for k, v in recipe.losses(net, x, labels, summed(net)).items()})
    assert runs[0] == runs[1] != runs[2]


def test_segmentation_keeps_the_labels_of_the_shape():
    samples = ['sample 0', 'sample 1']
    for gamma in (None, 1.0):
        recipe, got = DebiasedRecipe('pixel', gamma=gamma), []

        def forward_loss(images, parts, got=got):
            got[:] = [images, parts]
            return {'decode.loss_ce': images.sum()}

        losses = recipe.losses(nn.Module(), torch.rand(2, 3, 8, 8), samples, forward_loss)
        assert list(losses) == ['decode.loss_ce']
        assert len(got[0]) == 4
        assert got[1] == [LossTerm([*samples, *samples])]


@pytest.mark.parametrize('option', [{'gamma': 0.8}, {'mixup': 0.2}, {'cutmix': 1.0}])
def test_labels_of_maps_are_not_mixed(option):
    (name,) = option
    with pytest.raises(ValueError, match=f'labels of maps cannot be mixed .* segmentation needs {name}='):
        DebiasedRecipe('pixel', **option).losses(nn.Module(), torch.rand(2, 3, 8, 8), ['a', 'b'], None)


@pytest.mark.parametrize('ready', ['', 'encoder', 'all'])
def test_all_batch_norms_become_dual_unless_they_are(ready):
    name = 'resnet18_debiased' if ready else 'resnet18'
    model = nn.Sequential()
    model.backbone = small(name, num_classes=0)
    model.head = small('resnet18_debiased' if ready == 'all' else 'resnet18')
    DebiasedRecipe('pixel').prepare(model, model.backbone)
    duals = [m for m in model.modules() if isinstance(m, DualBatchNorm2d)]
    assert len(duals) == 40
    assert sum(isinstance(m, nn.BatchNorm2d) for m in model.modules()) == 80  # those in them


def test_a_model_without_batch_norms_trains_as_well():
    net = timm.create_model('convnext_atto', num_classes=4)
    recipe = DebiasedRecipe('pixel')
    recipe.prepare(net)
    losses = recipe.losses(net, torch.rand(2, 3, 32, 32), torch.tensor([0, 1]), summed(net))
    assert set(losses) == {'loss_cls', 'stylised.loss_cls'}


def test_activation_checkpointing_is_refused():
    net = small('resnet18')
    net.set_grad_checkpointing()
    with pytest.raises(ValueError, match='activation checkpointing'):
        DebiasedRecipe('pixel').prepare(net)
    assert not any(isinstance(m, DualBatchNorm2d) for m in net.modules())


@pytest.mark.parametrize(
    ('options', 'told'),
    [
        ({'alpha': 1.5}, '0 <= alpha <= 1'),
        ({'gamma': -0.1}, '0 <= gamma <= 1'),
        ({'mixup': 0.4, 'cutmix': 1.0}, 'mixup or cutmix'),
        ({'mixup': -1.0}, 'mixup or cutmix'),
        ({'styliser': 'pixels'}, "did you mean 'pixel'"),
    ],
)
def test_values_out_of_range_are_named(options, told):
    with pytest.raises(ValueError, match=told):
        DebiasedRecipe(**{'styliser': 'pixel', **options})


def test_the_default_styliser_tells_of_its_weights(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r'train_styliser\.py'):
        build_recipe('debiased')


def test_several_labels_for_each_image_are_mixed_as_they_are():
    seen = []

    def forward_loss(images, parts):
        seen.extend(parts)
        return {'loss': images.sum() * 0}

    model = small('resnet18_debiased', num_classes=3).train()
    recipe = build_recipe({'type': 'debiased', 'styliser': 'pixel'})
    recipe.prepare(model)
    recipe.losses(model, torch.rand(4, 3, 32, 32), torch.randint(2, (4, 3)), forward_loss)
    assert [part.weight for part in seen] == pytest.approx([0.5, 0.4, 0.1])
