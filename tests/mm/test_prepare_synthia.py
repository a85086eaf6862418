"""tools/prepare_synthia.py: 16-bit labels become train ids; what is not as distributed is reported."""

import json
from pathlib import Path

import cv2
import numpy as np
import prepare_synthia
import pytest
from ends import status_of
from labels.table import CLASSES

SIZE = (8, 23)  # height, width
# SYNTHIA-RAND-CITYSCAPES' ids and, for those that Cityscapes trains on, its names.
IDS = {1: 'sky', 2: 'building', 3: 'road', 4: 'sidewalk', 5: 'fence', 6: 'vegetation', 7: 'pole', 8: 'car'}
IDS |= {9: 'traffic sign', 10: 'person', 11: 'bicycle', 12: 'motorcycle', 15: 'traffic light', 16: 'terrain'}
IDS |= {17: 'rider', 18: 'truck', 19: 'bus', 20: 'train', 21: 'wall'}


def save_label(path: Path, ids: np.ndarray) -> None:
    """Class, instance and nothing, 16 bits each, as distributed."""
    channels = np.zeros((*ids.shape, 3), np.uint16)
    channels[..., 2], channels[..., 1] = ids, 300  # OpenCV writes the last channel first
    assert cv2.imwrite(str(path), channels)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / 'RGB').mkdir()
    (tmp_path / 'GT/LABELS').mkdir(parents=True)
    for number in range(3):
        cv2.imwrite(str(tmp_path / f'RGB/{number:07d}.png'), np.full((*SIZE, 3), number, np.uint8))
        save_label(tmp_path / f'GT/LABELS/{number:07d}.png', np.tile(np.roll(np.arange(23), number), (8, 1)))
    return tmp_path


def run(root: Path, *flags: str) -> int:
    return status_of(prepare_synthia.main, [str(root), '--workers', '1', *flags])


def train_ids(root: Path, number: int) -> np.ndarray:
    return cv2.imread(str(root / f'GT/LABELS/{number:07d}_labelTrainIds.png'), cv2.IMREAD_UNCHANGED)


def test_the_first_of_16_bit_channels_becomes_train_ids(root):
    assert run(root) == 0
    expected = np.array([CLASSES.index(IDS[label]) if label in IDS else 255 for label in range(23)])
    for number in range(3):
        np.testing.assert_array_equal(train_ids(root, number), np.tile(np.roll(expected, number), (8, 1)))


def test_the_converted_labels_are_what_the_data_set_takes(root):
    pytest.importorskip('mmseg')
    from mmseg_stylenorm.datasets import LoadTrainIds, StreetsDataset

    assert run(root) == 0
    dataset = StreetsDataset('synthia', data_root=str(root), pipeline=[LoadTrainIds()])
    assert len(dataset) == 3
    np.testing.assert_array_equal(dataset[1]['gt_seg_map'], train_ids(root, 1))


def _eight_bits(path: Path) -> None:
    cv2.imwrite(str(path), np.zeros((*SIZE, 3), np.uint8))


def _one_channel(path: Path) -> None:
    cv2.imwrite(str(path), np.zeros(SIZE, np.uint16))


def _unknown_id(path: Path) -> None:
    save_label(path, np.full(SIZE, 23))


def _wrong_size(path: Path) -> None:
    save_label(path, np.zeros((8, 9), int))


def _truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


FAULTS = [
    (_eight_bits, 'wrong depth', 'expected 16 bits in several channels, as distributed, got 8 bits in 3 channels'),
    (_one_channel, 'wrong depth', 'got 16 bits in 1 channels'),
    (_unknown_id, 'unknown id', '[23], expected 0..22'),
    (_wrong_size, 'size mismatch', 'is 9x8'),
    (_truncated, 'unreadable', '0000001.png'),
    (Path.unlink, 'missing label', '0000001.png'),
]


@pytest.mark.parametrize(('plant', 'kind', 'detail'), FAULTS, ids=[plant.__name__ for plant, _, _ in FAULTS])
def test_a_fault_is_reported_and_the_rest_converted(root, plant, kind, detail):
    plant(root / 'GT/LABELS/0000001.png')
    assert run(root) == 1
    [bad] = json.loads((root / 'prepare_report.json').read_text())['bad']
    assert (bad['name'], bad['kind']) == ('0000001', kind)
    assert detail in bad['detail']
    assert [train_ids(root, number) is None for number in range(3)] == [False, True, False]
    assert run(root, '--skip-bad') == 0
    assert (root / 'splits/good.txt').read_text() == '0000000\n0000002\n'


def test_half_a_download_is_named_folder_by_folder(root, capsys):
    (root / 'RGB').rename(root / 'elsewhere')
    assert run(root) == 2
    assert (
        f'{root}/RGB is not a folder; expected {root}/RGB/*.png and {root}/GT/LABELS/*.png' in capsys.readouterr().err
    )
