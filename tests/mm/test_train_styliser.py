"""The trainer of AdaIN's decoder: what it writes, that it learns, and that an interrupted run ends as a whole one."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import train_styliser
from PIL import Image
from styliser import training

from timm_stylenorm.functional import adain
from timm_stylenorm.recipes import build_styliser, vgg


@pytest.fixture(scope='module', autouse=True)
def _narrow():
    """Encoders and decoders with a quarter of the channels."""
    layers = vgg._layers

    def narrow(channels, plan):
        return layers(fewer(channels), tuple(fewer(step) for step in plan))

    def fewer(step):
        return step // 4 if isinstance(step, int) and step > 3 else step

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vgg, '_layers', narrow)
        yield


@pytest.fixture(scope='module')
def source(tmp_path_factory):
    """An image folder, and weights of a VGG-19 as timm names them."""
    folder = tmp_path_factory.mktemp('styliser')
    torch.manual_seed(0)
    encoder = vgg.encoder()
    convs = [layer for layer in encoder if isinstance(layer, torch.nn.Conv2d)][1:]
    state = {}
    for i, conv in zip((0, 2, 5, 7, 10, 12, 14, 16, 19), convs, strict=True):
        torch.nn.init.kaiming_normal_(conv.weight)
        state |= {f'features.{i}.weight': conv.weight.detach(), f'features.{i}.bias': torch.zeros(len(conv.weight))}
    torch.save(state, folder / 'vgg19.pth')
    for i in range(4):
        pixels = F.interpolate(torch.rand(1, 3, 4, 4), (40, 48), mode='bicubic').clamp(0, 1)[0] * 255
        path = folder / 'images' / f'class{i % 2}' / f'{i}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.permute(1, 2, 0).numpy().astype(np.uint8)).save(path)
    return folder


@pytest.fixture(autouse=True)
def _few_batches_for_the_scale(monkeypatch):
    monkeypatch.setattr(training, 'SCALING_BATCHES', 2)


def run(source, out, iters, *more):
    line = [source / 'images', '--out', out, '--encoder-checkpoint', source / 'vgg19.pth', '--iters', iters]
    line += ['--batch-size', 2, '--size', 16, '--workers', 0, '--device', 'cpu', *more]
    train_styliser.main([str(word) for word in line])


def test_it_writes_what_the_styliser_reads_and_a_picture(source, tmp_path):
    run(source, tmp_path, 2)
    assert {p.name for p in tmp_path.iterdir()} == {
        *('decoder.pth', 'samples.png', 'training.pth', 'vgg_normalised.pth'),
    }
    files = {'encoder': str(tmp_path / 'vgg_normalised.pth'), 'decoder': str(tmp_path / 'decoder.pth')}
    y = build_styliser({'type': 'adain', **files})(torch.rand(2, 3, 16, 16), torch.tensor([1, 0]))
    assert y.std() > 0
    side = 16 + 2  # images and the lines between them
    assert Image.open(tmp_path / 'samples.png').size == (6 * side + 2, 6 * side + 2)


def test_an_interrupted_run_ends_with_the_weights_of_a_whole_one(source, tmp_path, monkeypatch):
    run(source, tmp_path / 'whole', 4)
    draws, losses = [], training.losses

    def interrupted(*args):
        draws.append(args[-1])
        if len(draws) == 4:
            raise KeyboardInterrupt
        return losses(*args)

    monkeypatch.setattr(training, 'losses', interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(source, tmp_path / 'parts', 4, '--save-every', 2)
    assert torch.load(tmp_path / 'parts/training.pth', weights_only=True)['step'] == 2
    torch.rand(7)
    run(source, tmp_path / 'parts', 4, '--save-every', 2)
    assert len(draws) == 6
    assert torch.equal(draws[2], draws[4])
    first, second = (torch.load(tmp_path / f'{k}/decoder.pth', weights_only=True) for k in ('whole', 'parts'))
    for key, value in first.items():
        assert torch.equal(value, second[key]), key


def test_the_losses_fall(source, tmp_path):
    args = train_styliser.parse_args([str(source / 'images'), '--batch-size', '2', '--size', '16', '--workers', '0'])
    images = training.open_images(args)
    encoder = vgg.load_encoder(source / 'vgg19.pth')
    batch = training.Batches(images, args, range(1))[0]
    vgg.normalise(encoder, training.load(images, args, range(4)))
    decoder = vgg.decoder()
    optimizer = torch.optim.Adam(decoder.parameters(), 4e-4)
    values = []
    for _ in range(15):
        content, style = training.losses(encoder, decoder, batch)
        values.append(float((content + 10 * style).detach()))
        optimizer.zero_grad()
        (content + 10 * style).backward()
        optimizer.step()
    assert values[-1] < 0.7 * values[0]
    assert all(p.grad is None for p in encoder.parameters())


def test_the_losses_are_the_papers(source):
    """Eq. (12) and (13), one image at a time."""
    encoder, decoder = vgg.load_encoder(source / 'vgg19.pth'), vgg.decoder()
    batch = torch.rand(4, 3, 16, 16)
    content, style = training.losses(encoder, decoder, batch)
    contents, styles = [], []
    for i in range(2):
        wanted = vgg.features(encoder, batch[2 + i : 3 + i])
        target = adain(vgg.features(encoder, batch[i : i + 1])[-1], wanted[-1])
        made = vgg.features(encoder, decoder(target))
        contents.append((made[-1] - target).square().mean())
        for a, b in zip(made, wanted, strict=True):
            styles.append((a.mean((2, 3)) - b.mean((2, 3))).square().mean())
            styles.append((a.std((2, 3)) - b.std((2, 3))).square().mean())
    torch.testing.assert_close(content, sum(contents) / 2, rtol=3e-3, atol=1e-5)
    torch.testing.assert_close(style, sum(styles) / 2, rtol=3e-3, atol=1e-5)


def test_batches_depend_on_seed_and_number_only(source):
    args = train_styliser.parse_args([str(source / 'images'), '--batch-size', '2', '--size', '16'])
    images = training.open_images(args)
    batch = training.Batches(images, args, range(5, 9))[2]
    state = torch.get_rng_state()
    assert torch.equal(batch, training.Batches(images, args, range(7, 8))[0])
    assert torch.equal(state, torch.get_rng_state())
    assert batch.shape == (4, 3, 16, 16)
    assert not torch.equal(batch, training.Batches(images, args, range(8, 9))[0])
    args.seed = 1
    assert not torch.equal(batch, training.Batches(images, args, range(7, 8))[0])


def test_other_settings_do_not_go_on_from_a_run(source, tmp_path):
    run(source, tmp_path, 1)
    with pytest.raises(SystemExit, match=r'other settings \(lr 0.0001 -> 0.1\); choose another --out'):
        run(source, tmp_path, 2, '--lr', 0.1)


def test_a_decoder_that_was_not_trained_there_is_not_overwritten(source, tmp_path):
    (tmp_path / 'decoder.pth').write_bytes(b'downloaded')
    with pytest.raises(SystemExit, match=r'a decoder\.pth that was not trained there; choose another --out'):
        run(source, tmp_path, 1)
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [('decoder.pth', b'downloaded')]


def test_a_diverged_training_is_not_saved(source, tmp_path, monkeypatch):
    losses = training.losses
    monkeypatch.setattr(training, 'losses', lambda *args: tuple(v * float('nan') for v in losses(*args)))
    with pytest.raises(SystemExit, match='not finite after 1 iterations; try a lower --lr'):
        run(source, tmp_path, 1)
    assert not (tmp_path / 'training.pth').exists()


def test_folders_without_images_are_named(tmp_path):
    with pytest.raises(SystemExit, match='no image folder'):
        train_styliser.main([str(tmp_path / 'nowhere')])
    with pytest.raises(SystemExit, match='no image below'):
        train_styliser.main([str(tmp_path)])
    Image.new('RGB', (8, 8)).save(tmp_path / 'one.png')
    with pytest.raises(SystemExit, match='one image in'):
        train_styliser.main([str(tmp_path)])
