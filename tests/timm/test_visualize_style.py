"""Restyled feature maps as pictures: what is restyled, what is decoded, and what is refused."""

import numpy as np
import pytest
import timm
import torch
import visualize_style
from figures import decode, pictures
from PIL import Image

from timm_stylenorm.recipes import vgg


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Six striped images of different sizes and colours, and weights of a classifier with 5 classes."""
    root, draw = tmp_path_factory.mktemp('pictures'), np.random.default_rng(0)
    for i in range(6):
        stripes = 127 * (1 + np.sin(np.arange(70 + i) / (2 + i)))[:, None, None]
        colours = stripes * draw.random((1, 1, 3)) * np.ones((1, 80, 1))
        Image.fromarray(colours.astype(np.uint8)).save(root / f'{i}.png')
    torch.manual_seed(0)
    torch.save(timm.create_model('resnet18', num_classes=5).state_dict(), root / 'weights.pth')
    return root


def arguments(folder, *more):
    weights = ['--checkpoint', str(folder / 'weights.pth'), '--model', 'resnet18', '--image-size', '64']
    return [str(folder), *weights, '--decoder-steps', '1', *more]


@pytest.fixture(scope='module')
def codec(folder):
    """Of stage 1, with a decoder that has learnt a little."""
    args = visualize_style.parse_args(arguments(folder))
    images = pictures.load_images(pictures.image_files(folder), 64)
    codec = decode.StageCodec(pictures.Classifier.of(args), 'stage1')
    torch.manual_seed(0)
    codec.fit(images, 16)
    return codec, images


def test_a_short_training_decodes_better_than_grey(codec):
    codec, images = codec
    with torch.no_grad():
        decoded = codec.decode(codec.encode(images), images.shape[2:])
    assert decoded.shape == images.shape
    grey = images.mean((0, 2, 3), keepdim=True)
    assert (decoded - images).square().mean() < 0.7 * (grey - images).square().mean()


def test_the_classifier_goes_on_from_the_maps_of_a_stage(codec):
    codec, images = codec
    with torch.no_grad():
        maps = codec.encode(images)
        torch.testing.assert_close(codec.logits(maps, images), codec.classifier(images))
        assert not torch.allclose(codec.logits(maps.flip(0), images), codec.classifier(images))
        torch.testing.assert_close(codec.logits(maps.flip(0), images), codec.classifier(images.flip(0)))


def test_the_noise_of_advbn_raises_the_loss(codec):
    codec, images = codec
    labels = codec.classifier(images).argmax(1)
    maps = decode.restyled(codec, 'advbn:steps=3', images, labels)
    loss = torch.nn.functional.cross_entropy
    assert loss(codec.logits(maps, images), labels) > loss(codec.classifier(images), labels)


def test_exchanged_statistics_are_those_of_other_images(codec):
    codec, images = codec
    torch.manual_seed(1)
    before, after = codec.encode(images), decode.restyled(codec, 'padain', images, torch.zeros(6).long())
    means, donors = before.mean((2, 3)), after.mean((2, 3))
    assert sorted(torch.cdist(donors, means).argmin(1).tolist()) == list(range(6))
    assert not torch.allclose(before, after)
    assert torch.equal(decode.restyled(codec, 'padain:p=0', images, torch.zeros(6).long()), before)


def test_stages_are_decoded_one_through_the_other_into_a_grid(folder, capsys):
    out = folder.parent / f'{folder.name}.png'
    methods = ['padain', 'mixstyle:alpha=1', 'advbn:steps=1']
    stages = ['stage1', 'stage2']
    visualize_style.main(
        arguments(folder, '--methods', *methods, '--stages', *stages, '--show', '2', '--out', str(out))
    )
    assert f'wrote {out}' in capsys.readouterr().out
    with Image.open(out) as picture:
        width, height = picture.size
    assert height > 4 * 100
    assert width > 2 * 3 * 100


def test_the_styliser_gives_one_column_and_its_classifier_sees_decoded_images(folder, tmp_path):
    files = {name: tmp_path / f'{name}.pth' for name in ('encoder', 'decoder')}
    for name, file in files.items():
        torch.save(getattr(vgg, name)().state_dict(), file)
    options = [f'--styliser-{name}={file}' for name, file in files.items()]
    options += ['--methods', 'padain', 'advbn:steps=1', '--image-size', '32', '--limit', '3', '--show', '1']
    visualize_style.main(arguments(folder, *options, '--out', str(tmp_path / 'style.png')))
    with Image.open(tmp_path / 'style.png') as picture:
        assert picture.width < picture.height
    args = visualize_style.parse_args(arguments(folder, *options))
    codec = decode.StyliserCodec(pictures.Classifier.of(args), args.styliser_encoder, args.styliser_decoder)
    images = torch.rand(2, 3, 30, 32)
    maps = codec.encode(images)
    assert maps.shape == (2, 512, 4, 4)
    decoded = codec.decode(maps, (30, 32))
    assert decoded.shape == images.shape
    torch.testing.assert_close(codec.logits(maps, images), codec.classifier(decoded))


def test_maps_with_channels_last_are_decoded_and_tokens_refused():
    args = {'mean': (0.5,) * 3, 'std': (0.5,) * 3}
    images = torch.rand(2, 3, 64, 64)
    swin = timm.create_model('swin_tiny_patch4_window7_224', num_classes=2, img_size=64, depths=(1, 1, 1, 1))
    codec = decode.StageCodec(pictures.Classifier(swin, **args), 'stage2')
    maps = codec.encode(images)
    assert maps.shape == (2, 192, 8, 8)
    torch.testing.assert_close(codec.logits(maps, images), codec.classifier(images))
    vit = timm.create_model('vit_tiny_patch16_224', img_size=64, depth=2)
    with pytest.raises(ValueError, match="'stage1' passes tokens"):
        decode.StageCodec(pictures.Classifier(vit, **args), 'stage1').encode(images)


def test_a_checkpoint_that_was_trained_with_a_style_keeps_it(folder, tmp_path):
    from timm_stylenorm.surgery.add import style_layers

    trained = timm.create_model('resnet18_snr', num_classes=5)
    torch.save({'state_dict': {f'net.{key}': v for key, v in trained.state_dict().items()}}, tmp_path / 'snr.pth')
    more = ['--model', 'resnet18_snr', '--checkpoint', str(tmp_path / 'snr.pth')]
    classifier = pictures.Classifier.of(visualize_style.parse_args(arguments(folder, *more)))
    assert [name for name, _ in style_layers(classifier.model)] == ['snr.stage1', 'snr.stage2', 'snr.stage3']
    images = pictures.load_images(pictures.image_files(folder), 64)
    torch.testing.assert_close(classifier(images), trained.eval()((images - classifier.mean) / classifier.std))


@pytest.mark.parametrize(
    ('more', 'message'),
    [
        (['--methods', 'bin'], "'bin' replaces norm layers"),
        (['--methods', 'padian'], "did you mean 'padain'"),
        (['--methods', 'mixstyle:alhpa=1'], "did you mean 'alpha'"),
        (['--methods', 'advbn:steps=0'], 'steps >= 1'),
        (['--labels', '1', '2'], '2 classes for 6 images'),
        (['--labels', *'00000', '999'], 'has classes 0 to'),
        (['--stages', 'stage9'], 'stage9'),
        (['--stages', 'blocks'], "after one module, and 'blocks' means"),
        (['--model', 'resnet81'], "did you mean 'resnet"),
        (['--model', 'resnet34'], r'weights\.pth. does not fit this ResNet'),
        (['--styliser-encoder', 'no.pth', '--styliser-decoder', 'no.pth'], "encoder of the AdaIN styliser at 'no.pth'"),
    ],
)
def test_mistakes_are_told_before_any_training(folder, more, message, monkeypatch):
    monkeypatch.setattr(decode.StageCodec, 'fit', None)
    with pytest.raises(SystemExit, match=message):
        visualize_style.main(arguments(folder, *more))


def test_folders_without_images_and_damaged_images_are_named(tmp_path):
    with pytest.raises(SystemExit, match='no image below'):
        visualize_style.main([str(tmp_path)])
    with pytest.raises(SystemExit, match='unknown folder'):
        visualize_style.main([str(tmp_path / 'nothing')])
    (tmp_path / 'broken.png').write_bytes(b'no image')
    with pytest.raises(ValueError, match=r'cannot read the image .*broken\.png'):
        pictures.load_images([tmp_path / 'broken.png'], 8)
