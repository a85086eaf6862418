"""tools/prepare_nthu.py: label ids of Cityscapes become train ids; what is not as distributed is reported."""

import json
from pathlib import Path

import numpy as np
import prepare_nthu
import pytest
from ends import status_of
from labels.table import LABELS
from PIL import Image

IDS = np.tile(np.array([*range(len(LABELS)), 255], np.uint8), (8, 1))


@pytest.fixture(params=['.png', '.jpg'])
def root(tmp_path: Path, request) -> Path:
    for number in range(2):
        image = tmp_path / f'Images/Test/pano_{number:05d}_0_180{request.param}'
        image.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((*IDS.shape, 3), np.uint8)).save(image)
        label = tmp_path / f'Labels/Test/pano_{number:05d}_0_180_eval.png'
        label.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.roll(IDS, number, 1)).save(label)
    return tmp_path


def run(root: Path, *flags: str) -> int:
    return status_of(prepare_nthu.main, [str(root), '--workers', '1', *flags])


def test_label_ids_become_train_ids_that_the_data_set_takes(root):
    assert run(root) == 0
    expected = np.array([*(row[2] for row in LABELS), 255])
    file = root / 'Labels/Test/pano_00001_0_180_labelTrainIds.png'
    np.testing.assert_array_equal(np.asarray(Image.open(file))[0], np.roll(expected, 1))
    pytest.importorskip('mmseg')
    from mmseg_stylenorm.datasets import LoadTrainIds, StreetsDataset

    suffix = next((root / 'Images/Test').iterdir()).suffix
    data = StreetsDataset('nthu', data_root=str(root), img_suffix=suffix, pipeline=[LoadTrainIds()])
    assert len(data) == 2
    np.testing.assert_array_equal(data[1]['gt_seg_map'][0], np.roll(expected, 1))


def test_other_labels_are_reported(root):
    Image.fromarray(np.full(IDS.shape, 77, np.uint8)).save(root / 'Labels/Test/pano_00000_0_180_eval.png')
    Image.fromarray(np.zeros((*IDS.shape, 3), np.uint8)).save(root / 'Labels/Test/pano_00001_0_180_eval.png')
    assert run(root) == 1
    bad = json.loads((root / 'prepare_report.json').read_text())['bad']
    assert [entry['kind'] for entry in bad] == ['unknown id', 'unknown mode']
    assert '[77], expected 0..34' in bad[0]['detail']
