"""A cell of the sweep: a style method in a model is refused at build, or right in a training forward."""

import copy
import itertools

import torch

import timm_stylenorm
from timm_stylenorm.dual_bn import routed
from timm_stylenorm.layers import InstanceNorm
from timm_stylenorm.layers.base import RandomStyleLayer
from timm_stylenorm.methods import METHODS
from timm_stylenorm.surgery.attachment import replaces_norm
from timm_stylenorm.surgery.frozen import let_style_train
from timm_stylenorm.surgery.structure import levels_of

SWEPT = list(METHODS)
TRAIN_ONLY = [name for name in SWEPT if issubclass(METHODS[name].layer, RandomStyleLayer)]
SIZES = ((192, 160), (224, 224), (256, 256), (240, 240), (288, 288), (299, 299), (336, 336), (384, 384), (448, 448))


def size_for(model):
    """The first size of `SIZES` that the model takes in training."""
    for size in SIZES:
        try:
            with torch.no_grad():
                copy.deepcopy(model).train()(torch.randn(3, 3, *size))
        except Exception:
            continue
        return size
    return None


def outcome(plain, images, reference, method):
    """'refused' or 'right', whether the probe could not run, and why; an AssertionError where it is wrong.

    Args:
        plain: The model.
        images: (3, 3, H, W).
        reference: What it returns for them in evaluation.
        method: Name of the method.
    """
    model = copy.deepcopy(plain)
    options = {k: v for k, v in {'p': 1.0, 'active': 0}.items() if k in METHODS[method].defaults}
    names = [name for name, _ in model.named_modules()]
    keys = list(model.state_dict())
    try:
        timm_stylenorm.add_style(model, method, **options)
    except ValueError as error:
        assert [name for name, _ in model.named_modules()] == names
        assert list(model.state_dict()) == keys
        return 'refused', False, str(error)
    unproven = any(layer.attachment.unchecked for _, layer in timm_stylenorm.style_layers(model))
    size = tuple(images.shape[2:])
    if method in TRAIN_ONLY:
        model.eval()
        assert returns(model, images, reference), 'evaluation changes'
        let_style_train(model)
        # a head that starts at zero tells no image from another
        mute = all(torch.equal(t, t[:1].expand_as(t)) for t in _tensors(reference))
        try:
            assert mute or not returns(model, images, reference), 'no change of logits'
        except ValueError:
            assert unproven
    seen = []
    hooks = [
        layer.register_forward_hook(lambda m, args, y: seen.append((m, args[0].detach(), y.detach())))
        for _, layer in timm_stylenorm.style_layers(model)
    ]
    model.train()
    try:
        output = _tensors(model(images))
        if method == 'dual_bn':
            with routed(model, 'adversarial'):
                output += _tensors(model(images))
    except ValueError as error:
        if not unproven:
            raise
        return 'refused in the first forward', unproven, str(error)
    sum(t.float().square().sum() for t in _tensors(output)).backward()
    for hook in hooks:
        hook.remove()
    assert seen, 'no layer has run'
    levels = {label: channels for label, (_, channels) in levels_of(model).items()}
    strides = _strides(plain)
    for layer, x, y in seen:
        assert x.shape == y.shape
        check_map(layer, x, size, levels)
        check_stride(layer, x, size, strides)
        check_axes(layer, x)
        check_positions(layer, x)
    missing = [k for k, p in timm_stylenorm.style_parameters(model) if p.grad is None and used(model, k, seen)]
    assert not missing, f'no gradient: {missing}'
    if method in TRAIN_ONLY:
        assert any(not torch.equal(x, y) for _, x, y in seen), 'nothing changes in training'
    return 'right', unproven, ''


def returns(model, images, reference):
    """Whether a model returns the reference, to the bit."""
    with torch.no_grad():
        pairs = zip(_tensors(model(images)), _tensors(reference), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def used(model, key, seen):
    """Whether the layer of a parameter has run."""
    layers = [layer for layer, _, _ in seen]
    return model.get_submodule(key.rpartition('.')[0]) in {m for layer in layers for m in layer.modules()}


def check_map(layer, x, size, levels):
    """What arrives is the batch's maps: images first, positions in the proportions of the images."""
    assert len(x) == 3, f'{layer.attachment}: batch axis {tuple(x.shape)}'
    parameter = next((p for p in layer.parameters(recurse=False) if p.dim() == 1), None)
    channels = x.shape[layer.channel_dim]
    assert parameter is None or len(parameter) == channels, f'{layer.attachment}: channels of {tuple(x.shape)}'
    site = str(layer.attachment).partition('.')[2]
    expected = levels.get(site.partition('.')[0] if site.endswith('.sum') else site)
    assert expected in (None, channels), f'{layer.attachment}: feature_info says {expected}, arrives {tuple(x.shape)}'
    ratio = size[1] / size[0]
    if x.dim() == 4:
        h, w = [n for axis, n in enumerate(x.shape) if axis not in (0, layer.channel_dim % 4)]
        assert abs(w - h * ratio) <= 4, f'{layer.attachment}: no map {tuple(x.shape)}'
    else:
        count = x.shape[3 - layer.channel_dim % 3] - layer.prefix_tokens
        grids = [(h, count // h) for h in range(1, count + 1) if count % h == 0]
        assert any(abs(w - h * ratio) <= 1 for h, w in grids), f'{layer.attachment}: no map of tokens {tuple(x.shape)}'


def _strides(model):
    """Of stages that `feature_info` tells of."""
    entries = getattr(model, 'feature_info', None) or []
    stages = [entry for entry in entries if entry['reduction'] > 2]
    return {f'stage{i}': entry['reduction'] for i, entry in enumerate(stages, 1)}


def check_stride(layer, x, size, strides):
    """A stage's map is smaller than the images by what `feature_info` says, but for what padding gives or takes."""
    stride = strides.get(str(layer.attachment).partition('.')[2].removesuffix('.sum'))
    if stride is not None:
        h, w = (n / stride for n in size)
        count = x[0].numel() / x.shape[layer.channel_dim] - layer.prefix_tokens
        lowest, highest = max(h - 4, 1) * max(w - 4, 1), (h + 1) * (w + 1)
        assert lowest <= count <= highest, f'{layer.attachment}: {tuple(x.shape)} at stride {stride} of {size}'


def check_axes(layer, x):
    """a * x + b for each image and channel leaves what instance norm returns unchanged."""
    norm = InstanceNorm(x.shape[layer.channel_dim], eps=1e-12).double()
    norm.channel_dim, norm.prefix_tokens = layer.channel_dim, layer.prefix_tokens
    shape = [1] * x.dim()
    shape[0], shape[layer.channel_dim] = len(x), x.shape[layer.channel_dim]
    x = torch.randn_like(x, dtype=torch.double)
    scale, shift = torch.rand(shape).double() + 0.5, torch.randn(shape).double()
    start = layer.prefix_tokens
    if x.dim() > 2 and x[:, start:].numel() > x.shape[layer.channel_dim] * len(x):
        torch.testing.assert_close(norm(x * scale + shift)[:, start:], norm(x)[:, start:], rtol=1e-5, atol=1e-6)


def check_positions(layer, x):
    """Permuting the positions of what arrives permutes what leaves."""
    if x[0, :1].numel() == 1 or replaces_norm(layer):
        return
    layer, x = copy.deepcopy(layer).double(), torch.randn_like(x, dtype=torch.double)

    def forward(x):
        torch.manual_seed(1)
        return layer(x)

    axis = next(axis for axis in range(x.dim() - 1, 0, -1) if axis != layer.channel_dim % x.dim())
    order = torch.cat([torch.arange(n := layer.prefix_tokens), n + torch.randperm(x.shape[axis] - n)])
    with torch.no_grad():
        permuted = forward(x.index_select(axis, order))
        torch.testing.assert_close(permuted, forward(x).index_select(axis, order), rtol=1e-6, atol=1e-6)


def _tensors(value):
    if isinstance(value, torch.Tensor):
        return [value]
    items = value.values() if isinstance(value, dict) else value
    return list(itertools.chain.from_iterable(map(_tensors, items)))
