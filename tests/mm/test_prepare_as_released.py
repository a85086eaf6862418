"""Converters on data as released and as they lie on disks: junk, turned images, bad files, read-only folders."""

import codecs
import errno
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from ends import status_of
from PIL import Image

pytest.importorskip('mmseg')
import labels.pairs
import prepare_gta5
import prepare_mapillary
from mmengine.registry import init_default_scope
from test_data_as_released import turned
from test_datasets_streets import PIPELINE, write

from mmseg_stylenorm.datasets import GTA5Dataset


@pytest.fixture(autouse=True)
def _scope():
    init_default_scope('mmseg')


@pytest.fixture
def gta5(tmp_path) -> Path:
    """Three pairs as distributed; ids of labels are 7, 8 and 11."""
    for number, k in enumerate((7, 8, 11), 1):
        write(tmp_path / f'images/{number:05d}.png', np.zeros((20, 30, 3), np.uint8))
        write(tmp_path / f'labels/{number:05d}.png', np.full((20, 30), k, np.uint8))
    return tmp_path


def convert(root: Path, *extra: str) -> int:
    return status_of(prepare_gta5.main, [str(root), '--workers', '1', *extra])


def test_a_converter_passes_junk_capitals_and_folders(gta5):
    for folder in ('images', 'labels'):
        (gta5 / folder / '._00001.png').write_bytes(b'\0\5\26\7')
        (gta5 / folder / '.DS_Store').write_bytes(b'x')
        (gta5 / folder / 'Thumbs.db').write_bytes(b'x')
        (gta5 / folder / '00002.png').rename(gta5 / folder / '00002.PNG')
        (gta5 / folder / 'more').mkdir()
        shutil.copy(gta5 / folder / '00003.png', gta5 / folder / 'more/00001.png')
    assert convert(gta5) == 0
    dataset = GTA5Dataset(data_root=str(gta5), pipeline=PIPELINE)
    assert [item['data_samples'].gt_sem_seg.data.unique().tolist() for item in dataset] == [[0], [1], [2], [2]]
    assert Path(dataset.get_data_info(3)['seg_map_path']).relative_to(gta5).as_posix() == (
        'labels/more/00001_labelTrainIds.png'
    )


def test_a_converter_goes_on_behind_files_that_are_empty_too_large_or_twice_there(gta5, monkeypatch):
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 600)
    write(gta5 / 'images/00004.png', np.zeros((100, 100, 3), np.uint8))
    write(gta5 / 'labels/00004.png', np.full((100, 100), 7, np.uint8))
    (gta5 / 'images/00005.png').write_bytes(b'')
    write(gta5 / 'labels/00005.png', np.full((20, 30), 7, np.uint8))
    shutil.copy(gta5 / 'images/00003.png', gta5 / 'images/00003.PNG')
    assert convert(gta5) == 1
    bad = json.loads((gta5 / 'prepare_report.json').read_text())['bad']
    assert [(b['name'], b['kind']) for b in bad] == [
        ('00003', 'two images'), ('00004', 'unreadable'), ('00005', 'unreadable')
    ]  # fmt: skip
    assert 'exceeds limit' in bad[1]['detail']
    assert len(list((gta5 / 'labels').glob('*_labelTrainIds.png'))) == 2


def test_a_converter_and_the_loader_agree_on_turned_images(gta5):
    turned(gta5 / 'images/00001.png')
    turned(gta5 / 'images/00002.png')
    write(gta5 / 'labels/00002.png', np.full((30, 20), 8, np.uint8))
    assert convert(gta5, '--skip-bad') == 0
    (bad,) = json.loads((gta5 / 'prepare_report.json').read_text())['bad']
    assert (bad['name'], bad['kind']) == ('00001', 'size mismatch')
    dataset = GTA5Dataset(data_root=str(gta5), ann_file='splits/good.txt', pipeline=PIPELINE)
    assert [item['inputs'].shape[1:] for item in dataset] == [(30, 20), (20, 30)]
    assert convert(gta5) == 1
    assert json.loads((gta5 / 'prepare_report.json').read_text())['counts']['already there'] == 2


def test_labels_go_to_another_folder_on_request(gta5, tmp_path_factory, capsys):
    before = sorted(gta5.rglob('*'))
    out = tmp_path_factory.mktemp('elsewhere') / 'new'
    assert convert(gta5, '--out', str(out), '--skip-bad') == 0
    assert sorted(gta5.rglob('*')) == before
    assert f"seg_map_path='{out}/labels'" in capsys.readouterr().out
    prefix = dict(img_path='images', seg_map_path=f'{out}/labels')
    dataset = GTA5Dataset(
        data_root=str(gta5), data_prefix=prefix, ann_file=str(out / 'splits/good.txt'), pipeline=PIPELINE
    )
    assert [item['data_samples'].gt_sem_seg.data.unique().tolist() for item in dataset] == [[0], [1], [2]]


@pytest.mark.parametrize('number', [errno.EROFS, errno.EACCES])
def test_a_folder_that_cannot_be_written_to_says_what_to_do(gta5, monkeypatch, capsys, number):
    def refuse(dir):
        raise OSError(number, 'not here', str(dir))

    monkeypatch.setattr(labels.pairs, 'TemporaryFile', refuse)
    assert convert(gta5) == 2
    assert f'{gta5} cannot be written (not here); --out FOLDER writes labels' in capsys.readouterr().err


def test_a_grey_ramp_says_that_indices_are_ids(gta5):
    for number, ramp in enumerate((range(256), range(256), range(255, -1, -1)), 1):
        ids = np.resize(np.arange(35, dtype=np.uint8), (20, 30))
        label = Image.fromarray(ids)
        label.putpalette([value for value in ramp for _ in range(3)])
        label.save(gta5 / f'labels/{number:05d}.png')
    assert convert(gta5) == 1
    (bad,) = json.loads((gta5 / 'prepare_report.json').read_text())['bad']
    assert (bad['name'], bad['kind']) == ('00003', 'unknown colour')
    found = np.asarray(Image.open(gta5 / 'labels/00001_labelTrainIds.png'))
    assert found.flat[7] == 0
    assert found.flat[20] == 7  # a traffic sign, whose grey is the colour of 'static'


@pytest.mark.parametrize('there', ['config_v2.0.json', 'config.json', 'labels'])
def test_vistas_2_is_named(tmp_path, capsys, there):
    newer = {'labels': [{'readable': f'class {k}'} for k in range(124)]}
    if there == 'labels':
        (tmp_path / 'training/v2.0/labels').mkdir(parents=True)
        newer = {'labels': [{'readable': name} for name in prepare_mapillary.CLASS_OF]}
    (tmp_path / ('config.json' if there == 'labels' else there)).write_bytes(
        codecs.BOM_UTF8 + json.dumps(newer).encode()
    )
    assert status_of(prepare_mapillary.main, [str(tmp_path)]) == 2
    assert 'this is Vistas v2.0, whose 124 classes are not read; unpack the labels of version 1.2' in (
        capsys.readouterr().err
    )
