"""A copy of an image folder by AdvBN: its tree, how it is resumed, and what is never overwritten."""

import shutil

import make_advbn_images
import numpy as np
import pytest
import timm
import torch
from figures import decode
from PIL import Image

NAMES = ('cat/a.png', 'cat/b.jpg', 'dog/a.png', 'dog/deep/c.webp', 'dog/d.PNG')


@pytest.fixture(scope='module')
def source(tmp_path_factory):
    root, draw = tmp_path_factory.mktemp('advbn'), np.random.default_rng(0)
    for name in NAMES:
        file = root / 'images' / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 255, (50, 60, 3), np.uint8)).save(file)
    (root / 'images/cat/notes.txt').write_text('no image')
    torch.manual_seed(0)
    torch.save(timm.create_model('resnet18', num_classes=4).state_dict(), root / 'weights.pth')
    return root


def make(source, out, *more):
    weights = ['--checkpoint', str(source / 'weights.pth'), '--model', 'resnet18', '--image-size', '32']
    options = ['--decoder-steps', '1', '--advbn', 'advbn:steps=1', '--batch-size', '2']
    make_advbn_images.main([str(source / 'images'), str(out), *weights, *options, *more])


@pytest.fixture(scope='module')
def copy(source):
    make(source, source / 'copy')
    return source / 'copy'


def images_of(folder):
    return {name: (folder / name).read_bytes() for name in NAMES}


def test_the_copy_has_the_same_tree_and_other_images(source, copy):
    found = {str(p.relative_to(copy)) for p in copy.rglob('*') if p.is_file()}
    assert found == {*NAMES, 'advbn_images.json', 'advbn_decoder.pth'}
    for name in NAMES:
        with Image.open(copy / name) as image, Image.open(source / 'images' / name) as before:
            assert image.size == (32, 32)
            assert image.format == before.format


def test_an_interrupted_copy_is_finished_with_the_same_images(source, copy, capsys, tmp_path):
    half = tmp_path / 'half'
    shutil.copytree(copy, half)
    (half / NAMES[0]).unlink()
    (half / NAMES[3]).unlink()
    kept = (half / NAMES[1]).stat().st_mtime_ns
    make(source, half)
    assert 'wrote 2 images' in capsys.readouterr().out
    assert images_of(half) == images_of(copy)
    assert (half / NAMES[1]).stat().st_mtime_ns == kept
    make(source, half)
    assert 'wrote 0 images' in capsys.readouterr().out


def test_an_interruption_leaves_no_half_image(source, tmp_path, monkeypatch):
    save = Image.Image.save

    def broken(image, file, **options):
        save(image, file, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, 'save', broken)
    with pytest.raises(KeyboardInterrupt):
        make(source, tmp_path / 'copy')
    assert not [p for p in (tmp_path / 'copy').rglob('*') if p.suffix.lower() in ('.png', '.jpg', '.webp')]
    monkeypatch.undo()
    make(source, tmp_path / 'copy')
    assert all((tmp_path / 'copy' / name).is_file() for name in NAMES)


def test_classes_may_be_those_of_the_folders(source, copy, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(decode, 'restyled', lambda codec, m, x, labels: seen.extend(labels.tolist()) or codec.encode(x))
    make(source, tmp_path / 'copy', '--folder-labels')
    assert sorted(seen) == [0, 0, 1, 1, 2]


def test_other_peoples_folders_and_other_settings_are_refused(source, copy, tmp_path):
    before = images_of(copy)
    with pytest.raises(SystemExit, match=r'made with other settings \(seed\)'):
        make(source, copy, '--seed', '1')
    assert images_of(copy) == before
    (tmp_path / 'precious.txt').write_text('mine')
    with pytest.raises(SystemExit, match='is not empty, and not made by this tool'):
        make(source, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ['precious.txt']
    with pytest.raises(SystemExit, match='beside each other'):
        make(source, source / 'images/copy')
    with pytest.raises(SystemExit, match="expected 'advbn'"):
        make(source, tmp_path / 'new', '--advbn', 'padain')
    with pytest.raises(SystemExit, match='a whole number steps >= 1'):
        make(source, tmp_path / 'new', '--advbn', 'advbn:steps=1.5')
    with pytest.raises(SystemExit, match='2'):  # argparse's
        make(source, tmp_path / 'new', '--batch-size', '0')
    with pytest.raises(SystemExit, match='stage7'):
        make(source, tmp_path / 'new', '--stage', 'stage7')
    assert not (tmp_path / 'new').exists()
