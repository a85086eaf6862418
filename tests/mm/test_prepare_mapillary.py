"""tools/prepare_mapillary.py: Vistas' classes of version 1.2 become those of Cityscapes."""

import json
import shutil
from pathlib import Path

import numpy as np
import prepare_mapillary
import pytest
from ends import status_of
from labels.table import CLASSES
from PIL import Image
from prepare_mapillary import CLASS_OF

IDS = np.arange(66, dtype=np.uint8).reshape(6, 11)


def save_label(path: Path, ids: np.ndarray) -> None:
    label = Image.fromarray(ids)
    label.putpalette(list(range(256)) * 3)
    label.save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two pairs of each split, as downloaded with both versions of the labels."""
    labels = [{'name': name.lower(), 'readable': name, 'color': [0, 0, 0]} for name in CLASS_OF]
    (tmp_path / 'config_v1.2.json').write_text(json.dumps({'version': '1.2', 'labels': labels}))
    for split in ('training', 'validation'):
        for folder in ('images', 'v1.2/labels', 'v2.0/labels'):
            (tmp_path / split / folder).mkdir(parents=True)
        for name in 'ab':
            Image.fromarray(np.zeros((*IDS.shape, 3), np.uint8)).save(tmp_path / split / f'images/{name}.jpg')
            save_label(tmp_path / split / f'v1.2/labels/{name}.png', IDS)
    return tmp_path


def run(root: Path, *flags: str) -> int:
    return status_of(prepare_mapillary.main, [str(root), '--workers', '1', *flags])


def train_ids(root: Path, name: str = 'a', split: str = 'validation') -> np.ndarray:
    return np.asarray(Image.open(root / split / f'labelTrainIds/{name}.png'))


def expected(**changed: str | None) -> np.ndarray:
    names = (CLASS_OF | changed).values()
    return np.array([255 if name is None else CLASSES.index(name) for name in names]).reshape(IDS.shape)


def test_the_classes_are_those_of_version_1_2_in_their_order():
    datasets = pytest.importorskip('mmseg.datasets')
    assert tuple(CLASS_OF) == datasets.MapillaryDataset_v1.METAINFO['classes']


def test_every_class_of_cityscapes_is_reached():
    assert set(CLASS_OF.values()) == {*CLASSES, None}


def test_the_labels_of_all_splits_become_train_ids(root):
    assert run(root) == 0
    for split in ('training', 'validation'):
        np.testing.assert_array_equal(train_ids(root, 'b', split), expected())
    one = {name: train_ids(root).flat[k] for k, name in enumerate(CLASS_OF)}
    assert (one['Road'], one['Curb'], one['On Rails'], one['Bicyclist'], one['Tunnel']) == (0, 1, 16, 12, 255)


def test_the_folder_of_older_downloads_is_found(root):
    for split in ('training', 'validation'):
        (root / split / 'v1.2/labels').rename(root / split / 'labels')
        (root / split / 'v1.2').rmdir()
    (root / 'config_v1.2.json').rename(root / 'config.json')
    assert run(root) == 0
    np.testing.assert_array_equal(train_ids(root), expected())


def test_the_converted_labels_are_what_the_data_set_takes(root):
    pytest.importorskip('mmseg')
    from mmseg_stylenorm.datasets import LoadTrainIds, StreetsDataset

    assert run(root) == 0
    dataset = StreetsDataset('mapillary', data_root=str(root), pipeline=[LoadTrainIds()])
    assert [Path(item['img_path']).name for item in dataset] == ['a.jpg', 'b.jpg']
    np.testing.assert_array_equal(dataset[0]['gt_seg_map'], expected())


def test_a_mapping_changes_what_it_names_and_replaces_an_older_one_only_on_request(root, capsys):
    assert run(root) == 0
    file = root / 'mine.json'
    file.write_text(json.dumps({'Tunnel': 'building', 'Sand': None}))
    assert run(root, '--mapping', str(file)) == 2
    assert 'another mapping; --overwrite replaces it' in capsys.readouterr().err
    np.testing.assert_array_equal(train_ids(root), expected())
    assert run(root, '--mapping', str(file), '--overwrite') == 0
    np.testing.assert_array_equal(train_ids(root), expected(Tunnel='building', Sand=None))


ROBUSTNET = {13: 0, 24: 0, 41: 0, 2: 1, 15: 1, 17: 2, 6: 3, 3: 4, 45: 5, 47: 5, 48: 6, 50: 7, 30: 8, 29: 9, 27: 10}
ROBUSTNET |= {19: 11, 20: 12, 21: 12, 22: 12, 55: 13, 61: 14, 54: 15, 58: 16, 57: 17, 52: 18}


def by_the_rules_of_rein(name: str) -> int:
    """Their converter matches parts of names, in this order."""
    name = name.lower().replace(' ', '').replace('-', '')
    classes = [c.replace(' ', '') for c in CLASSES]
    rules = [
        (('trafficsign', 'front', 'back'), 'traffic sign'),
        (('onrail',), 'train'),
        (('cyclist', 'rider'), 'rider'),
        (('pole', 'streetlight'), 'pole'),
        (('curb', 'pedestrianarea'), 'sidewalk'),
        (('crosswalkplain', 'parking', 'bikelane', 'servicelane', 'lanemarking'), 'road'),
    ]
    if name in classes:
        return classes.index(name)
    return next((CLASSES.index(c) for parts, c in rules if any(part in name for part in parts)), 255)


@pytest.mark.parametrize(
    ('mapping', 'theirs'),
    [
        ('robustnet', [ROBUSTNET.get(k, 255) for k in range(66)]),
        ('rein', [by_the_rules_of_rein(name) for name in CLASS_OF]),
    ],
)
def test_mappings_of_papers_have_names(root, mapping, theirs):
    assert run(root, '--mapping', mapping) == 0
    assert train_ids(root).ravel().tolist() == theirs


@pytest.mark.parametrize('gone', ['v1.2', 'v1.2/labels/*.png', 'images/*.jpg'])
def test_labels_stay_where_what_they_were_made_from_is_gone(root, capsys, gone):
    assert run(root) == 0
    for path in list((root / 'validation').glob(gone)):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    file = root / 'mine.json'
    file.write_text(json.dumps({'Tunnel': 'building'}))
    assert run(root, '--mapping', str(file), '--overwrite') == 2
    assert 'labels are kept' in capsys.readouterr().err
    np.testing.assert_array_equal(train_ids(root), expected())


def test_labels_of_unknown_origin_are_not_taken_for_ones_own(root, capsys):
    target = root / 'validation/labelTrainIds/a.png'
    target.parent.mkdir()
    Image.fromarray(np.zeros(IDS.shape, np.uint8)).save(target)
    assert run(root) == 2
    assert 'a mapping that is not known; --overwrite replaces it' in capsys.readouterr().err
    assert not train_ids(root).any()
    assert run(root, '--overwrite') == 0
    np.testing.assert_array_equal(train_ids(root), expected())


def test_a_mapping_that_is_a_list_is_refused(root, capsys):
    (root / 'mine.json').write_text('["Tunnel"]')
    assert run(root, '--mapping', str(root / 'mine.json')) == 2
    assert 'expected {"name": value, ...}, got list' in capsys.readouterr().err


@pytest.mark.parametrize('mapping', [{'Tunnell': 'road'}, {'Tunnel': 'roof'}])
def test_a_mapping_of_unknown_names_is_refused(root, capsys, mapping):
    (root / 'mine.json').write_text(json.dumps(mapping))
    assert run(root, '--mapping', str(root / 'mine.json')) == 2
    assert 'unknown classes' in capsys.readouterr().err


def test_labels_of_another_version_are_refused(root, capsys):
    file = root / 'config_v1.2.json'
    config = json.loads(file.read_text())
    config['labels'] += [{'readable': f'class {k}'} for k in range(58)]
    file.write_text(json.dumps(config))
    assert run(root) == 2
    assert 'lists 124 classes, expected the 66 of version 1.2' in capsys.readouterr().err
    file.unlink()
    assert run(root) == 2
    assert 'neither config_v1.2.json nor config.json' in capsys.readouterr().err


def _id_of_version_2(root: Path) -> None:
    save_label(root / 'validation/v1.2/labels/a.png', np.full(IDS.shape, 66, np.uint8))


def _sixteen_bits(root: Path) -> None:
    Image.fromarray(IDS.astype(np.uint16)).save(root / 'validation/v1.2/labels/a.png')


def _truncated_image(root: Path) -> None:
    path = root / 'validation/images/a.jpg'
    path.write_bytes(path.read_bytes()[:-40])


def _missing_image(root: Path) -> None:
    (root / 'validation/images/a.jpg').unlink()


FAULTS = [
    (_id_of_version_2, 'unknown id', '[66], expected 0..65'),
    (_sixteen_bits, 'unknown mode', 'of 8 bits, got I;16'),
    (_truncated_image, 'unreadable', 'images/a.jpg'),
    (_missing_image, 'missing image', 'images/a.jpg'),
]


@pytest.mark.parametrize(('plant', 'kind', 'detail'), FAULTS, ids=[plant.__name__ for plant, _, _ in FAULTS])
def test_a_fault_is_reported_and_the_rest_converted(root, plant, kind, detail):
    plant(root)
    assert run(root) == 1
    [bad] = json.loads((root / 'validation/prepare_report.json').read_text())['bad']
    assert (bad['name'], bad['kind']) == ('a', kind)
    assert detail in bad['detail']
    np.testing.assert_array_equal(train_ids(root, 'b'), expected())


def test_half_a_download_is_named(root, capsys):
    (root / 'training').rename(root / 'elsewhere')
    assert run(root) == 2
    assert f'{root}/training is not a folder' in capsys.readouterr().err
