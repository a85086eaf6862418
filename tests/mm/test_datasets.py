"""GTA5Dataset and LoadTrainIds: what they load, and what they say when the data is not what it should be."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip('mmseg')
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS, TRANSFORMS

from mmseg_stylenorm.datasets import GTA5Dataset

PIPELINE = [{'type': 'LoadImageFromFile'}, {'type': 'LoadTrainIds'}]


@pytest.fixture(autouse=True)
def _mmseg_scope(monkeypatch) -> None:
    init_default_scope('mmseg')


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three pairs; every label holds one train id per pair, and some ignored pixels."""
    for folder in ('images', 'labels'):
        (tmp_path / folder).mkdir()
    noise = np.random.default_rng(0)
    for number in range(3):
        label = np.full((16, 24), number, np.uint8)
        label[:4] = 255
        Image.fromarray(noise.integers(0, 256, (16, 24, 3), np.uint8)).save(tmp_path / f'images/{number:05d}.png')
        Image.fromarray(label).save(tmp_path / f'labels/{number:05d}_labelTrainIds.png')
        Image.fromarray(label).save(tmp_path / f'labels/{number:05d}.png')
    return tmp_path


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_gta5_pairs_images_with_train_ids(root):
    dataset = DATASETS.build({'type': 'GTA5Dataset', 'data_root': str(root), 'pipeline': PIPELINE})
    assert len(dataset) == 3
    assert len(dataset.metainfo['classes']) == 19
    for number, item in enumerate(dataset):
        assert item['img'].shape == (16, 24, 3)
        assert np.unique(item['gt_seg_map']).tolist() == [number, 255]


def test_gta5_takes_a_split_file(root):
    (root / 'splits').mkdir()
    (root / 'splits' / 'good.txt').write_text('00002\n00000\n')
    dataset = GTA5Dataset(data_root=str(root), ann_file='splits/good.txt')
    assert [Path(dataset[i]['img_path']).name for i in range(2)] == ['00002.png', '00000.png']
    assert Path(dataset[0]['seg_map_path']).name == '00002_labelTrainIds.png'
    assert len(dataset) == 2


@pytest.mark.parametrize('folder', ['images', 'labels'])
def test_gta5_names_a_missing_folder_and_the_cure(root, folder):
    (root / folder).rename(root / 'elsewhere')
    with pytest.raises(FileNotFoundError, match=rf'{root}/{folder} does not exist.*tools/prepare_gta5\.py'):
        GTA5Dataset(data_root=str(root))


def test_gta5_checks_folders_only_when_needed_with_lazy_init(tmp_path):
    dataset = GTA5Dataset(data_root=str(tmp_path / 'absent'), lazy_init=True)
    assert dataset.metainfo['classes'][0] == 'road'
    with pytest.raises(FileNotFoundError, match='absent/images does not exist'):
        dataset.full_init()


def test_gta5_names_a_missing_split_file(root):
    with pytest.raises(FileNotFoundError, match=r'splits/nope\.txt does not exist.*--skip-bad'):
        GTA5Dataset(data_root=str(root), ann_file='splits/nope.txt')


def test_gta5_says_that_labels_are_not_converted(root):
    for path in (root / 'labels').glob('*_labelTrainIds.png'):
        path.unlink()
    with pytest.raises(FileNotFoundError, match=r'3 of 3 images have no label.*00000_label.*prepare_gta5\.py'):
        GTA5Dataset(data_root=str(root))


def test_gta5_refuses_an_empty_image_folder(root):
    for path in (root / 'images').iterdir():
        path.unlink()
    with pytest.raises(FileNotFoundError, match=r'no \*\.png image is listed in .*images'):
        GTA5Dataset(data_root=str(root))


@pytest.mark.parametrize('wrong', [19, 33, 254])
def test_a_class_id_out_of_range_names_file_id_and_cure(root, wrong):
    path = root / 'labels/00001_labelTrainIds.png'
    label = np.asarray(Image.open(path)).copy()
    label[7, 7] = wrong
    Image.fromarray(label).save(path)
    dataset = GTA5Dataset(data_root=str(root), pipeline=PIPELINE)
    assert dataset[0]['gt_seg_map'].max() == 255
    with pytest.raises(ValueError, match=rf'{path} holds class ids \[{wrong}\].*0\.\.18.*tools/prepare_\*\.py'):
        dataset[1]


def test_ids_of_a_16_bit_label_do_not_wrap_into_range(root):
    path = root / 'labels/00001_labelTrainIds.png'
    label = np.full((16, 24), 3, np.uint16)
    Image.fromarray(label).save(path)
    dataset = GTA5Dataset(data_root=str(root), pipeline=PIPELINE)
    assert np.unique(dataset[1]['gt_seg_map']).tolist() == [3]
    label[7, 7] = 256 + 3
    Image.fromarray(label).save(path)
    with pytest.raises(ValueError, match=rf'{path} holds class ids \[259\]'):
        dataset[1]


def test_the_range_of_ids_follows_num_classes(root):
    load = TRANSFORMS.build({'type': 'LoadTrainIds', 'num_classes': 2})
    with pytest.raises(ValueError, match=r'class ids \[2\]; expected train ids 0\.\.1'):
        GTA5Dataset(data_root=str(root), pipeline=[load])[2]


@pytest.mark.parametrize('between', [[], [{'type': 'Resize', 'scale': (12, 8)}]])
def test_a_label_of_another_size_than_its_image_names_both_files(root, between):
    path = root / 'labels/00001_labelTrainIds.png'
    pipeline = [PIPELINE[0], *between, PIPELINE[1]]
    dataset = GTA5Dataset(data_root=str(root), pipeline=pipeline)
    assert dataset[1]['gt_seg_map'].shape == (16, 24)
    Image.fromarray(np.zeros((24, 16), np.uint8)).save(path)
    with pytest.raises(ValueError, match=rf'label {path} is 16x24, and its image .*images/00001.png 24x16: .*EXIF'):
        dataset[1]


def test_a_truncated_label_names_the_file(root):
    path = root / 'labels/00001_labelTrainIds.png'
    truncate(path)
    with pytest.raises(ValueError, match=rf'label {path} cannot be decoded.*truncated'):
        GTA5Dataset(data_root=str(root), pipeline=PIPELINE)[1]


def test_a_truncated_image_names_the_file(root):
    path = root / 'images/00001.png'
    truncate(path)
    with pytest.raises(ValueError, match=f'image {path} cannot be decoded; is it cut short'):
        GTA5Dataset(data_root=str(root), pipeline=PIPELINE)[1]


def test_a_label_that_vanished_names_the_file_and_the_cure(root):
    path = root / 'labels/00002_labelTrainIds.png'
    dataset = GTA5Dataset(data_root=str(root), pipeline=PIPELINE)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=rf'label {path} does not exist.*tools/prepare_\*\.py'):
        dataset[2]


def test_a_colour_label_is_refused(root):
    path = root / 'labels/00000_labelTrainIds.png'
    Image.fromarray(np.zeros((16, 24, 3), np.uint8)).save(path)
    with pytest.raises(ValueError, match=r'has shape \(16, 24, 3\), expected \(H, W\)'):
        GTA5Dataset(data_root=str(root), pipeline=PIPELINE)[0]
