"""tools/prepare_toy_streets.py: two domains, one distribution of streets, and nothing that depends on the machine."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import prepare_toy_streets as toy
import pytest
from ends import status_of
from labels import table
from PIL import Image
from toy_streets.scene import paint_street
from toy_streets.style import photograph, style_at

TRAIN, VAL = COUNTS = 2, 1  # pictures of each domain
SMALL = ['--train', str(TRAIN), '--val', str(VAL), '--size', '128x64']


def run(out: Path, *flags: str, workers: int = 1) -> int:
    return status_of(toy.main, [str(out), *SMALL, '--workers', str(workers), *flags])


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob('*')) if path.is_file()}


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


@pytest.fixture(scope='module')
def drawn(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp('toy') / 'streets'
    assert run(out) == 0
    return out


def test_the_layout_is_that_of_gta5_and_cityscapes(drawn):
    gta5 = [f'{number:05d}' for number in range(1, TRAIN + VAL + 1)]
    expected = {f'gta5/images/{name}.png' for name in gta5}
    expected |= {f'gta5/labels/{name}{end}.png' for name in gta5 for end in ('', '_labelTrainIds')}
    expected |= {'gta5/splits/train.txt', 'gta5/splits/val.txt', 'toy_streets.json'}
    for split, count in (('train', TRAIN), ('val', VAL)):
        for name in (f'{split}/toytown/toytown_{index:06d}_000000' for index in range(count)):
            expected.add(f'cityscapes/leftImg8bit/{name}_leftImg8bit.png')
            expected |= {f'cityscapes/gtFine/{name}_gtFine_{kind}.png' for kind in ('labelIds', 'labelTrainIds')}
    assert set(contents(drawn)) == expected
    assert (drawn / 'gta5/splits/train.txt').read_text().split() == gta5[:TRAIN]
    assert (drawn / 'gta5/splits/val.txt').read_text().split() == gta5[TRAIN:]


def test_images_and_labels_have_the_size_asked_for(drawn):
    for picture in toy.plan(*COUNTS):
        image, ids, train_ids = map(read, picture.files(drawn))
        assert (image.shape, image.dtype) == ((64, 128, 3), np.uint8)
        assert ids.shape == train_ids.shape == (64, 128)
        np.testing.assert_array_equal(table.TO_TRAIN_ID[ids], train_ids)


def test_gta5_labels_are_palette_images_of_label_ids(drawn):
    label = Image.open(drawn / 'gta5/labels/00001.png')
    assert label.mode == 'P'
    colours = {colour for _, _, train, colour in table.LABELS if train != table.IGNORE}
    assert set(map(tuple, np.asarray(label.convert('RGB')).reshape(-1, 3).tolist())) <= colours


def test_the_pictures_do_not_depend_on_the_workers(drawn, tmp_path):
    assert run(tmp_path / 'again', workers=2) == 0
    assert contents(tmp_path / 'again') == contents(drawn)


def test_another_seed_draws_other_streets(drawn, tmp_path):
    assert run(tmp_path / 'other', '--seed', '1') == 0
    for picture in toy.plan(*COUNTS):
        assert (read(picture.files(drawn)[1]) != read(picture.files(tmp_path / 'other')[1])).any()


def test_no_street_is_drawn_twice(drawn):
    labels = [read(picture.files(drawn)[1]).tobytes() for picture in toy.plan(*COUNTS)]
    assert len(set(labels)) == len(labels)


@pytest.mark.parametrize('domain', toy.DOMAINS)
@pytest.mark.slow
def test_all_19_classes_are_common(domain):
    seen = np.zeros(19)
    for index in range(40):
        _, ids = toy.draw_picture(toy.Picture(domain, 'train', index, index), 0, (256, 128), 1.0)
        seen += np.bincount(table.TO_TRAIN_ID[ids].ravel(), minlength=256)[:19] >= 10
    rare = {name: int(count) for name, count in zip(table.CLASSES, seen, strict=True) if count < 8}
    assert not rare


def paint(gap: float) -> tuple[np.ndarray, np.ndarray]:
    style, palette = style_at(gap)
    canvas = paint_street((128, 64), palette, np.random.default_rng(3))
    return photograph(canvas, style, np.random.default_rng(4))


def test_the_gap_changes_the_style_and_never_the_labels():
    (game, labels), (near, near_labels), (far, far_labels) = (paint(gap) for gap in (0.0, 0.5, 1.0))
    np.testing.assert_array_equal(near_labels, labels)
    np.testing.assert_array_equal(far_labels, labels)
    close, wide = (np.abs(image.astype(float) - game).mean() for image in (near, far))
    assert 5 < close < wide


@pytest.mark.slow
def test_without_a_gap_both_domains_look_alike():
    def mean_colour(domain: str, gap: float) -> np.ndarray:
        pictures = [toy.draw_picture(toy.Picture(domain, 'val', i, i), 0, (128, 64), gap)[0] for i in range(16)]
        return np.mean([[image.mean((0, 1)), image.std((0, 1))] for image in pictures], axis=0)

    game = mean_colour('gta5', 1.0)
    assert np.abs(mean_colour('cityscapes', 0.0) - game).max() < 8
    assert np.abs(mean_colour('cityscapes', 1.0) - game).max() > 16


def test_a_finished_data_set_is_left_alone(drawn, capsys):
    before = {path: path.stat().st_mtime_ns for path in drawn.rglob('*')}
    assert run(drawn) == 0
    assert 'up to date' in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in drawn.rglob('*')} == before


def test_an_interrupted_run_is_resumed(drawn, tmp_path, monkeypatch):
    out = tmp_path / 'streets'
    write, done = toy._write, []

    def stop_at_the_fourth(*args):
        if len(done) == 4:
            raise KeyboardInterrupt
        done.append(args[-1])
        write(*args)

    monkeypatch.setattr(toy, '_write', stop_at_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        run(out)
    assert json.loads((out / toy.MANIFEST).read_text())['complete'] is False
    first = done[0].files(out)[0]
    before = first.stat().st_mtime_ns
    monkeypatch.undo()
    assert run(out) == 0
    assert first.stat().st_mtime_ns == before
    assert contents(out) == contents(drawn)


def test_other_parameters_do_not_overwrite(drawn, capsys):
    before = contents(drawn)
    assert run(drawn, '--gap', '0.5') == 2
    assert 'gap 1.0 -> 0.5' in capsys.readouterr().err
    assert contents(drawn) == before


def test_a_folder_of_somebody_else_is_refused(tmp_path, capsys):
    (tmp_path / 'thesis.txt').write_text('mine')
    assert run(tmp_path) == 2
    assert 'was not written by this tool' in capsys.readouterr().err
    assert contents(tmp_path) == {'thesis.txt': b'mine'}


@pytest.mark.parametrize(
    ('flag', 'value', 'message'),
    [
        ('--size', '512', 'expected WIDTHxHEIGHT'),
        ('--size', '8x8', 'at least 32x32'),
        ('--gap', '-1', 'expected at least 0'),
        ('--gap', 'nan', 'expected at least 0'),
        ('--train', '0', 'expected at least 1'),
        ('--seed', 'one', 'expected a number'),
    ],
)
def test_a_wrong_argument_is_named(tmp_path, capsys, flag, value, message):
    with pytest.raises(SystemExit):
        toy.main([str(tmp_path / 'out'), flag, value])
    assert message in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()


def test_processes_do_not_wait_for_threads_of_opencv_that_only_their_parent_has(tmp_path):
    script = f"""
import sys; sys.path.insert(0, {str(Path(toy.__file__).parent)!r})
import cv2, numpy as np
cv2.setNumThreads(4)
cv2.GaussianBlur(np.zeros((2000, 2000), np.float32), (31, 31), 3)
import prepare_toy_streets
prepare_toy_streets.main('streets --train 2 --val 2 --size 64x32 --workers 2'.split())
"""
    assert subprocess.run([sys.executable, '-c', script], timeout=100, cwd=tmp_path).returncode == 0
