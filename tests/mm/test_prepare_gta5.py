"""tools/prepare_gta5.py: what it converts, and how it reports each fault; nothing is dropped in silence."""

import json
from pathlib import Path

import numpy as np
import prepare_gta5
import pytest
from ends import status_of
from labels import table
from PIL import Image

SIZE = (20, 30)  # height, width
IDS = np.arange(35, dtype=np.uint8)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four good pairs: two palette labels, a grey one and a colour one, each with every label id."""
    rng = np.random.default_rng(0)
    palette = np.array(table.gta5_palette(), np.uint8).reshape(256, 3)
    for folder in ('images', 'labels'):
        (tmp_path / folder).mkdir()
    for number in range(1, 5):
        ids = np.resize(rng.permutation(IDS), SIZE).astype(np.uint8)
        Image.fromarray(rng.integers(0, 256, (*SIZE, 3), np.uint8)).save(tmp_path / f'images/{number:05d}.png')
        label = Image.fromarray(palette[ids] if number == 4 else ids)
        if number < 3:
            label.putpalette(table.gta5_palette())
        label.save(tmp_path / f'labels/{number:05d}.png')
    return tmp_path


def run(root: Path, *flags: str) -> int:
    return status_of(prepare_gta5.main, [str(root), '--workers', '1', *flags])


def report(root: Path) -> dict:
    return json.loads((root / 'prepare_report.json').read_text())


def train_ids(root: Path, number: int) -> np.ndarray:
    return np.asarray(Image.open(root / f'labels/{number:05d}_labelTrainIds.png'))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_the_label_table_is_that_of_cityscapesscripts():
    labels = pytest.importorskip('cityscapesscripts.helpers.labels').labels
    theirs = {label.name: (label.id, label.trainId) for label in labels if label.id >= 0}
    ours = {name: (label, train) for name, label, train, _ in table.LABELS if name != 'license plate'}
    assert ours == theirs
    colours = {label.name: label.color for label in labels}
    differ = {name for name, _, _, colour in table.LABELS if colour != colours[name]}
    assert differ == {'static'}  # GTA5 paints it (20, 20, 20), so that it differs from unlabeled


def test_palette_and_grey_labels_become_train_ids(root):
    names = {label: train for _, label, train, _ in table.LABELS}
    assert run(root) == 0
    for number in (1, 2, 3):
        ids = np.asarray(Image.open(root / f'labels/{number:05d}.png'))
        expected = [[names[int(label)] for label in row] for row in ids]
        np.testing.assert_array_equal(train_ids(root, number), expected)
    assert report(root) == {'pairs': 4, 'counts': {'converted': 4}, 'bad': []}


def test_colour_labels_become_train_ids(root):
    assert run(root) == 0
    rgb = np.asarray(Image.open(root / 'labels/00004.png'))
    found = train_ids(root, 4)
    for name, label, train, colour in table.LABELS:
        if name not in ('polegroup', 'license plate'):  # these share their colours with pole and car
            assert set(found[(rgb == colour).all(axis=2)].tolist()) == {train}, (name, label)


def repaint(path: Path, colours: int = 256) -> None:
    """Saves a palette label with a palette of its own: same colours, as far as they are enough, other indices."""
    ids = np.asarray(Image.open(path))
    Image.open(path).convert('RGB').quantize(colours).save(path)
    assert not np.array_equal(np.asarray(Image.open(path)), ids)


def save_palette_label(path: Path, ids: np.ndarray) -> None:
    label = Image.fromarray(ids)
    label.putpalette(table.gta5_palette())
    label.save(path)


def test_a_label_with_a_palette_of_its_own_goes_through_its_colours(root):
    path = root / 'labels/00001.png'
    alone_in_their_colour = np.setdiff1d(IDS, [table.LABEL_ID['polegroup'], table.LABEL_ID['license plate']])
    save_palette_label(path, np.resize(alone_in_their_colour, SIZE))
    assert run(root) == 0
    before = train_ids(root, 1)
    repaint(path)
    assert run(root, '--overwrite') == 0
    np.testing.assert_array_equal(train_ids(root, 1), before)


def test_indices_count_where_two_ids_share_a_colour(root):
    save_palette_label(root / 'labels/00001.png', np.full(SIZE, table.LABEL_ID['polegroup'], np.uint8))
    assert run(root) == 0
    assert np.unique(train_ids(root, 1)).tolist() == [255]  # by colour it would be a pole


def test_two_processes_write_what_one_writes(root):
    assert run(root) == 0
    alone = [train_ids(root, number) for number in range(1, 5)]
    assert prepare_gta5.main([str(root), '--workers', '2', '--overwrite']) == 0
    for number, expected in enumerate(alone, 1):
        np.testing.assert_array_equal(train_ids(root, number), expected)


def _plant_size_mismatch(root: Path) -> None:
    Image.fromarray(np.zeros((10, 30, 3), np.uint8)).save(root / 'images/00002.png')


def _plant_truncated_image(root: Path) -> None:
    truncate(root / 'images/00002.png')


def _plant_truncated_label(root: Path) -> None:
    truncate(root / 'labels/00002.png')


def _plant_text_file(root: Path) -> None:
    (root / 'labels/00002.png').write_text('not a picture')


def _plant_unknown_colour(root: Path) -> None:
    Image.fromarray(np.full((*SIZE, 3), (1, 2, 3), np.uint8)).save(root / 'labels/00002.png')


def _plant_foreign_palette(root: Path) -> None:
    repaint(root / 'labels/00002.png', colours=8)  # too few: colours are mixed


def _plant_unknown_id(root: Path) -> None:
    Image.fromarray(np.full(SIZE, 77, np.uint8)).save(root / 'labels/00002.png')


def _plant_missing_image(root: Path) -> None:
    (root / 'images/00002.png').unlink()


def _plant_missing_label(root: Path) -> None:
    (root / 'labels/00002.png').unlink()


FAULTS = [
    (_plant_size_mismatch, 'size mismatch', 'is 30x10'),
    (_plant_truncated_image, 'unreadable', 'images/00002.png'),
    (_plant_truncated_label, 'unreadable', 'labels/00002.png'),
    (_plant_text_file, 'unreadable', 'labels/00002.png'),
    (_plant_unknown_colour, 'unknown colour', '(1, 2, 3)'),
    (_plant_foreign_palette, 'unknown colour', 'is not a label colour'),
    (_plant_unknown_id, 'unknown id', '[77]'),
    (_plant_missing_image, 'missing image', 'images/00002.png'),
    (_plant_missing_label, 'missing label', 'labels/00002.png'),
]


@pytest.mark.parametrize(('plant', 'kind', 'detail'), FAULTS, ids=[plant.__name__[7:] for plant, _, _ in FAULTS])
def test_a_fault_is_reported_and_the_rest_converted(root, capsys, plant, kind, detail):
    plant(root)
    assert run(root) == 1
    [bad] = report(root)['bad']
    assert (bad['name'], bad['kind']) == ('00002', kind)
    assert detail in bad['detail']
    assert f'{kind}: {bad["detail"]}' in capsys.readouterr().out
    assert not (root / 'labels/00002_labelTrainIds.png').exists()
    assert all((root / f'labels/{number:05d}_labelTrainIds.png').exists() for number in (1, 3, 4))


def test_skip_bad_writes_a_split_without_the_bad_pairs(root):
    _plant_truncated_label(root)
    assert run(root, '--skip-bad') == 0
    assert (root / 'splits/good.txt').read_text() == '00001\n00003\n00004\n'
    assert [bad['name'] for bad in report(root)['bad']] == ['00002']


def test_the_split_is_what_gta5_dataset_takes(root):
    pytest.importorskip('mmseg')
    from mmseg_stylenorm.datasets import GTA5Dataset

    _plant_missing_label(root)
    assert run(root, '--skip-bad') == 0
    dataset = GTA5Dataset(data_root=str(root), ann_file='splits/good.txt')
    pairs = [(Path(item['img_path']), Path(item['seg_map_path'])) for item in map(dataset.get_data_info, range(3))]
    assert [image.name for image, _ in pairs] == ['00001.png', '00003.png', '00004.png']
    assert all(image.is_file() and label.is_file() for image, label in pairs)


def test_skip_bad_fails_when_nothing_is_left(root):
    for path in (root / 'labels').iterdir():
        path.unlink()
    assert run(root, '--skip-bad') == 1
    assert len(report(root)['bad']) == 4


def test_a_second_run_keeps_what_is_whole_and_repairs_what_is_not(root):
    assert run(root) == 0
    kept, broken = root / 'labels/00001_labelTrainIds.png', root / 'labels/00003_labelTrainIds.png'
    before, whole = kept.stat().st_mtime_ns, train_ids(root, 3)
    truncate(broken)
    (root / 'labels/00004_labelTrainIds.png').unlink()
    assert run(root) == 0
    assert report(root)['counts'] == {'already there': 2, 'converted': 2}
    assert kept.stat().st_mtime_ns == before
    np.testing.assert_array_equal(train_ids(root, 3), whole)


def test_overwrite_converts_again(root):
    assert run(root) == 0
    assert run(root, '--overwrite') == 0
    assert report(root)['counts'] == {'converted': 4}


def test_a_changed_label_is_converted_again(root):
    assert run(root) == 0
    Image.fromarray(np.full(SIZE, 26, np.uint8)).save(root / 'labels/00001.png')
    assert run(root) == 0
    assert np.unique(train_ids(root, 1)).tolist() == [13]


def test_no_temporary_file_stays(root):
    assert run(root) == 0
    assert not [path for path in root.rglob('*') if path.name.endswith('.part')]


@pytest.mark.parametrize('folder', ['images', 'labels'])
def test_a_missing_folder_is_named(root, capsys, folder):
    (root / folder).rename(root / 'elsewhere')
    assert run(root) == 2
    assert f'{root / folder} is not a folder' in capsys.readouterr().err
