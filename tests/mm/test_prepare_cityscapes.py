"""tools/prepare_cityscapes.py: polygons become train ids."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from ends import status_of
from PIL import Image

pytest.importorskip('cityscapesscripts')
import prepare_cityscapes

TARGET = 'gtFine/train/ulm/ulm_000000_000019_gtFine_labelTrainIds.png'
OBJECTS = [
    {'label': 'road', 'polygon': [[0, 8], [19, 8], [19, 9], [0, 9]]},
    {'label': 'cargroup', 'polygon': [[4, 4], [7, 4], [7, 6], [4, 6]]},
    {'label': 'license plate', 'polygon': [[5, 5], [6, 5], [6, 6], [5, 6]]},
    {'label': 'parking', 'polygon': [[15, 0], [19, 0], [19, 3], [15, 3]]},
    {'label': 'sky', 'polygon': [[0, 0], [9, 0], [9, 2], [0, 2]]},
    {'label': 'tree', 'polygon': [[0, 0], [19, 0], [19, 9], [0, 9]], 'deleted': 1},
]


def write(path: Path, objects: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({'imgHeight': 10, 'imgWidth': 20, 'objects': objects}))
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write(tmp_path / 'gtFine/train/ulm/ulm_000000_000019_gtFine_polygons.json', OBJECTS)
    write(tmp_path / 'gtFine/val/bonn/bonn_000001_000019_gtFine_polygons.json', OBJECTS[:1])
    return tmp_path


def run(root: Path, *flags: str) -> int:
    return status_of(prepare_cityscapes.main, [str(root), '--workers', '1', *flags])


def test_polygons_become_train_ids(root):
    expected = np.full((10, 20), 255)
    expected[8:] = 0
    expected[4:7, 4:8] = 13  # the group counts as its class; the plate on it is not drawn
    expected[:3, :10] = 10
    assert run(root) == 0
    np.testing.assert_array_equal(np.asarray(Image.open(root / TARGET)), expected)
    assert (root / 'gtFine/val/bonn/bonn_000001_000019_gtFine_labelTrainIds.png').is_file()


def test_a_second_run_keeps_what_is_whole_and_repairs_what_is_not(root):
    other = root / 'gtFine/val/bonn/bonn_000001_000019_gtFine_labelTrainIds.png'
    assert run(root) == 0
    before, whole = (root / TARGET).stat().st_mtime_ns, other.read_bytes()
    other.write_bytes(whole[: len(whole) // 2])
    assert run(root) == 0
    assert (root / TARGET).stat().st_mtime_ns == before
    assert other.read_bytes() == whole
    assert run(root, '--overwrite') == 0
    assert (root / TARGET).stat().st_mtime_ns != before


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('{"imgHeight": 10,', 'not a Cityscapes annotation'),
        ('{"imgHeight": 10}', 'not a Cityscapes annotation'),
        (json.dumps({'imgHeight': 10, 'imgWidth': 20, 'objects': [dict(OBJECTS[0], label='rode')]}), "['rode']"),
    ],
)
def test_a_broken_annotation_is_named_and_the_rest_converted(root, capsys, text, message):
    broken = root / 'gtFine/train/ulm/ulm_000000_000019_gtFine_polygons.json'
    broken.write_text(text)
    assert run(root) == 1
    out = capsys.readouterr().out
    assert str(broken) in out
    assert message in out
    assert not (root / TARGET).exists()
    assert (root / 'gtFine/val/bonn/bonn_000001_000019_gtFine_labelTrainIds.png').is_file()


def test_a_missing_folder_is_named(tmp_path, capsys):
    assert run(tmp_path) == 2
    assert f'{tmp_path / "gtFine"} is not a folder; unpack' in capsys.readouterr().err


def test_a_folder_without_annotations_is_refused(tmp_path, capsys):
    (tmp_path / 'gtFine').mkdir()
    assert run(tmp_path) == 2
    assert 'is gtFine_trainvaltest.zip unpacked?' in capsys.readouterr().err


def test_a_missing_cityscapesscripts_says_how_to_install_it(root, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, 'cityscapesscripts', None)
    assert run(root) == 2
    assert "pip install 'stylenorm[cityscapes]'" in capsys.readouterr().err
