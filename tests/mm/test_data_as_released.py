"""Data sets as released and as they lie on disks: known defects, turned images, junk, equal names, bad pairs."""

import codecs
import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from ends import status_of
from PIL import Image

pytest.importorskip('mmseg')
import check_data
import test as test_tool
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
from test_datasets_streets import FILES, PIPELINE, make, write

from mmseg_stylenorm.datasets import LAYOUTS, GTA5Dataset, MultiDomainDataset, StreetsDataset, layouts, streets
from mmseg_stylenorm.datasets.lists import SplitList
from timm_stylenorm.runner.configs import config_root

QUICK = 'quickstart/deeplabv3plus_r18-small_1xb8-240_toy-streets.py'
BDD = {
    'bdd100k': ('images/10k/{}/{}.jpg', 'labels/sem_seg/masks/{}/{}.png'),
    'bdd100k_seg': ('seg/images/{}/{}.jpg', 'seg/labels/{}/{}_train_id.png'),
}


@pytest.fixture(autouse=True)
def _scope(monkeypatch):
    init_default_scope('mmseg')
    streets._say_once.cache_clear()


def turned(path: Path, orientation: int = 6) -> None:
    """Gives an image an EXIF orientation."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.open(path).save(path, exif=exif)


def make_bdd(root: Path, layout: str, split: str = 'val', release: int = 2020) -> int:
    """Three good pairs, and all that was released in a bad state; returns how many images there are."""
    image, label = BDD[layout]
    good = [f'good-{k}' for k in range(3)]
    portraits = LAYOUTS[layout].defects[split]
    for name in (*good, *portraits):
        shape = (64, 36, 3) if name in portraits else (36, 64, 3)
        write(root / image.format(split, name), np.zeros(shape, np.uint8))
        if name in good or release == 2020:
            write(root / label.format(split, name), np.full((36, 64), 3, np.uint8))
    for name in LAYOUTS[layout].lone_labels.get(split, ()) if release == 2021 else ():
        write(root / label.format(split, name), np.full((36, 64), 3, np.uint8))
    return len(good) + len(portraits)


RELEASES = [('bdd100k', 2020), ('bdd100k', 2021), ('bdd100k_seg', 2020)]


@pytest.mark.parametrize(('layout', 'release'), RELEASES)
@pytest.mark.parametrize('split', ['val', 'train'])
def test_known_defects_are_left_out_logged_once_and_counted(tmp_path, monkeypatch, layout, release, split):
    said = []
    monkeypatch.setattr(streets, 'print_log', lambda text, *_: said.append(text))
    released = make_bdd(tmp_path, layout, split, release)
    row = dataclasses.replace(LAYOUTS[layout], pairs={split: released})
    monkeypatch.setitem(LAYOUTS, layout, row)
    options = dict(data_root=str(tmp_path), pipeline=PIPELINE, complete=True)
    dataset = StreetsDataset(layout, split, **options)
    assert [Path(dataset.get_data_info(k)['img_path']).stem for k in range(len(dataset))] == [
        'good-0',
        'good-1',
        'good-2',
    ]
    assert all(item['inputs'].shape == (3, 36, 64) for item in dataset)
    names = [*row.defects[split], *(row.lone_labels.get(split, ()) if release == 2021 else ())]
    assert sorted(dataset.metainfo['left_out']) == sorted(names)
    StreetsDataset(layout, split, **options)
    (line,) = [text for text in said if 'left out' in text]
    assert all(name in line for name in names)
    (tmp_path / 'list.txt').write_text('\n'.join(['good-1', row.defects[split][0]]))
    listed = StreetsDataset(layout, split, **options, ann_file='list.txt')
    assert (len(listed), listed.metainfo['left_out']) == (1, [row.defects[split][0]])
    (tmp_path / BDD[layout][0].format(split, 'good-1')).unlink()
    (tmp_path / BDD[layout][1].format(split, 'good-1')).unlink()
    with pytest.raises(ValueError, match=rf'2 images in .*, {released} were released; is the download whole'):
        StreetsDataset(layout, split, **options)


def test_images_of_defective_pairs_are_there_where_labels_are_not_asked_for(tmp_path):
    count = make_bdd(tmp_path, 'bdd100k')
    dataset = StreetsDataset('bdd100k', data_root=str(tmp_path), data_prefix=dict(img_path='images/10k/val'))
    assert len(dataset) == count


def test_the_table_of_defects_names_the_six_portraits():
    assert sum(map(len, layouts.BDD100K_PORTRAITS.values())) == 6
    for row in LAYOUTS.values():
        assert set(row.defects) | set(row.lone_labels) <= set(row.pairs)


@pytest.fixture
def domains(tmp_path, monkeypatch) -> Path:
    """Three domains, of which one is BDD100K as released, a config that tests on them, and a checkpoint."""
    monkeypatch.chdir(tmp_path)
    init_default_scope('mmseg')
    model = MODELS.build(Config.fromfile(config_root() / QUICK).model)
    torch.save({'meta': {}, 'state_dict': model.state_dict()}, 'net.pth')
    make(tmp_path / 'acdc', 'acdc_fog')
    make_bdd(tmp_path / 'bdd', 'bdd100k', release=2021)
    make(tmp_path / 'night', 'dark_zurich')
    (tmp_path / 'data.py').write_text(
        f"""
steps = {PIPELINE!r}
street = dict(type='StreetsDataset', pipeline=steps)
test_dataloader = dict(
    batch_size=1, num_workers=2, persistent_workers=False, sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='MultiDomainDataset', domains=dict(
        fog=dict(**street, layout='acdc_fog', data_root='acdc'),
        bdd=dict(**street, layout='bdd100k', data_root='bdd'),
        night=dict(**street, layout='dark_zurich', data_root='night'))))
test_evaluator = dict(type='DomainIoUMetric')
"""
    )
    return tmp_path


def run_test(*extra: str) -> tuple[int, dict]:
    status = status_of(test_tool.main, [QUICK, 'net.pth', '--data', 'data.py', '--work-dir', 'out', *extra])
    (file,) = Path('out').glob('*/domains.json')
    return status, json.loads(file.read_text())


def test_a_test_over_domains_passes_the_defects_of_the_release(domains):
    status, report = run_test('--cfg-options', 'log_level=ERROR')
    assert isinstance(status, dict)
    rows = report['domains']
    assert {name: row['images'] for name, row in rows.items()} == {'fog': 3, 'bdd': 3, 'night': 3}
    assert {name: len(row['left_out']) for name, row in rows.items()} == {'fog': 0, 'bdd': 4, 'night': 0}


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:40])


def _empty(path: Path) -> None:
    path.write_bytes(b'')


def _other_size(path: Path) -> None:
    shape = np.asarray(Image.open(path)).shape
    write(path, np.zeros((shape[0] + 8, *shape[1:]), np.uint8))


def _other_ids(path: Path) -> None:
    write(path, np.full_like(np.asarray(Image.open(path)), 33))


FAULTS = [(0, _cut), (1, _other_size), (1, _other_ids)]
FAULTS += [
    pytest.param(*pair, marks=pytest.mark.slow) for pair in ((0, _empty), (0, _other_size), (1, _cut), (1, _empty))
]


@pytest.mark.parametrize(
    ('half', 'plant'),
    FAULTS,
    ids=lambda part: ['image', 'label'][part] if isinstance(part, int) else part.__name__,
)
def test_one_bad_pair_costs_no_other_result_of_a_test(domains, capsys, half, plant):
    bad = domains / 'acdc' / FILES['acdc_fog'][half].replace('0001', '0002')
    plant(bad)
    status, report = run_test('--out', 'predicted', '--show-dir', 'shown', '--cfg-options', 'log_level=ERROR')
    assert status == 2
    said = capsys.readouterr().err
    assert 'error: 1 images were not tested' in said
    assert bad.name in said
    rows = report['domains']
    assert {name: row['images'] for name, row in rows.items()} == {'fog': 2, 'bdd': 3, 'night': 3}
    ((entry,),) = (row['unread'] for row in rows.values() if row['unread'])
    assert entry['image'].endswith('GP010002_frame_000002_rgb_anon.png')
    assert sum(1 for _ in Path('predicted/fog').rglob('*.png')) == 2
    assert not list(Path('predicted').rglob('*000002_rgb_anon.png'))[1:]


def test_a_domain_that_cannot_be_read_at_all_costs_no_other_domain(domains):
    for file in (domains / 'acdc/gt').rglob('*.png'):
        _other_ids(file)
    status, report = run_test('--cfg-options', 'log_level=ERROR', 'test_dataloader.num_workers=0')
    assert status == 2
    assert {name: row['images'] for name, row in report['domains'].items()} == {'fog': 0, 'bdd': 3, 'night': 3}
    assert report['scores']['fog']['mIoU'] is None
    assert report['scores']['night']['mIoU'] is not None


def test_a_test_in_which_nothing_can_be_read_ends_with_the_first_error(domains):
    for file in domains.rglob('*.png'):
        _empty(file)
    for file in domains.rglob('*.jpg'):
        _empty(file)
    line = [QUICK, 'net.pth', '--data', 'data.py', '--work-dir', 'out']
    with pytest.raises(SystemExit, match='is an empty file'):
        test_tool.main([*line, '--cfg-options', 'log_level=ERROR', 'test_dataloader.num_workers=0'])


def test_training_stops_at_a_bad_pair(tmp_path):
    (_, label), *_ = make(tmp_path, 'gta5')
    _empty(label)
    dataset = MultiDomainDataset({'a': GTA5Dataset(data_root=str(tmp_path), pipeline=PIPELINE)})
    with pytest.raises(ValueError, match='cannot be decoded'):
        dataset[0]


def test_overlays_of_images_of_one_name_tell_them_apart(domains):
    for name in ('acdc', 'night'):
        for half in (0, 1):
            layout = {'acdc': 'acdc_fog', 'night': 'dark_zurich'}[name]
            first = domains / name / FILES[layout][half]
            other = first.parent.with_name('OTHER') / first.name
            other.parent.mkdir()
            shutil.copy(first, other)
    run_test('--show-dir', 'shown', '--cfg-options', 'log_level=ERROR')
    names = [path.name.rpartition('_')[0] for path in Path('shown').rglob('*.png')]
    assert len(names) == len(set(names)) == 11
    assert 'test_fog_OTHER_GP010001_frame_000001_rgb_anon' in names


@pytest.mark.parametrize('layout', LAYOUTS)
def test_junk_capitals_and_links_are_no_matter_to_any_layout(tmp_path, layout):
    pairs = make(tmp_path, layout)
    for image, label in pairs[:1]:
        for file in (image, label):
            (file.parent / f'._{file.name}').write_bytes(b'\0\5\26\7')
            (file.parent / '.DS_Store').write_bytes(b'x')
            (file.parent / 'Thumbs.db').write_bytes(b'x')
            (file.parent / '.ipynb_checkpoints').mkdir()
            shutil.copy(file, file.parent / '.ipynb_checkpoints' / file.name)
    for file in pairs[1]:
        file.rename(file.with_suffix(file.suffix.upper()))
    dataset = StreetsDataset(layout, data_root=str(tmp_path), pipeline=PIPELINE)
    assert [item['inputs'].float().mean().round() for item in dataset] == [1, 2, 3]
    assert status_of(check_data.main, [layout, str(tmp_path), '--workers', '1']) == 0


@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('half', [0, 1])
def test_two_files_of_one_name_are_named(tmp_path, layout, half):
    file = make(tmp_path, layout)[0][half]
    shutil.copy(file, file.with_suffix(file.suffix.upper()))
    with pytest.raises(ValueError, match=rf'{file.stem}.* and .*{file.stem}.* have one name; keep one'):
        StreetsDataset(layout, data_root=str(tmp_path))
    assert status_of(check_data.main, [layout, str(tmp_path), '--workers', '1']) == 1


ENCODINGS = {
    'utf-8 with a mark': lambda text: codecs.BOM_UTF8 + text.encode(),
    'utf-16': lambda text: text.encode('utf-16'),
    'windows': lambda text: text.replace('\n', '\r\n').encode(),
    'spaces': lambda text: ('\n\n  ' + text.replace('\n', '   \n\t\n  ')).encode(),
}


@pytest.mark.parametrize('encoding', ENCODINGS)
def test_lists_are_read_as_editors_leave_them(tmp_path, encoding):
    make(tmp_path, 'gta5')
    (tmp_path / 'list.txt').write_bytes(ENCODINGS[encoding]('00003.PNG\nimages\\00001.png labels\\00001.png\n'))
    dataset = GTA5Dataset(data_root=str(tmp_path), ann_file='list.txt')
    assert [Path(dataset.get_data_info(k)['img_path']).stem for k in range(len(dataset))] == ['00003', '00001']


def test_a_list_that_is_no_text_is_named(tmp_path):
    make(tmp_path, 'gta5')
    (tmp_path / 'list.txt').write_bytes(b'\x89PNG\xff')
    with pytest.raises(ValueError, match=r'list\.txt is no text in UTF-8'):
        GTA5Dataset(data_root=str(tmp_path), ann_file='list.txt')


IMAGES = ('a/x', 'b/x', 'a/y', 'my image', 'c/d/z')


@pytest.mark.parametrize(
    ('line', 'found'),
    [
        ('a/x', 'a/x'),
        ('b/x.png', 'b/x'),
        ('root/leftImg8bit/val/b/x.png label', 'b/x'),
        ('/leftImg8bit/val/b/x.png\tlabels/b/x.png', 'b/x'),
        ('leftImg8bit/train/b/x', None),
        ('q/y', None),
        ('y', 'a/y'),
        ('z.PNG 3', 'c/d/z'),
        ('d/z', None),
        ('my image.png', 'my image'),
        ('my image.png\tmy label.png', 'my image'),
    ],
)
def test_a_line_of_a_list_means_an_image_by_its_folder(line, found):
    assert SplitList(IMAGES, '.png', 'leftImg8bit/val').find(line) == found


def test_a_line_without_folder_that_fits_two_images_is_refused(tmp_path):
    for town in 'ab':
        for half in (0, 1):
            path = tmp_path / FILES['cityscapes'][half].replace('lindau/', f'{town}/')
            write(path, np.zeros((8, 8, 3)[: 3 - half], np.uint8))
    (tmp_path / 'list.txt').write_text('lindau_000001_000990\n')
    with pytest.raises(ValueError, match=r'may be any of a/lindau_000001_000990, b/lindau_000001_000990'):
        StreetsDataset('cityscapes', data_root=str(tmp_path), ann_file='list.txt')
    (tmp_path / 'list.txt').write_text('c/lindau_000001_000990\n')
    with pytest.raises(FileNotFoundError, match=r'one of that name is a/lindau_000001_000990, and not in the folder'):
        StreetsDataset('cityscapes', data_root=str(tmp_path), ann_file='list.txt')


@pytest.mark.parametrize('layout', LAYOUTS)
def test_check_and_loader_agree_on_turned_images(tmp_path, layout):
    pairs = make(tmp_path, layout)
    turned(pairs[0][0])  # its label is not
    turned(pairs[1][0])
    write(pairs[1][1], np.full((48, 32), 2, np.uint8))  # as the image is shown
    dataset = StreetsDataset(layout, data_root=str(tmp_path), pipeline=PIPELINE)
    with pytest.raises(ValueError, match=r'they do not belong together, or one of them was turned \(EXIF\)'):
        dataset[0]
    assert dataset[1]['inputs'].shape == (3, 48, 32)
    assert status_of(check_data.main, [layout, str(tmp_path), '--workers', '1', '--skip-bad']) == 0
    folder = tmp_path / 'checks' / layout / next(iter(LAYOUTS[layout].pairs))
    (bad,) = json.loads((folder / 'prepare_report.json').read_text())['bad']
    assert (bad['kind'], 'turned as its EXIF data say' in bad['detail']) == ('size mismatch', True)
    kept = StreetsDataset(layout, data_root=str(tmp_path), ann_file=str(folder / 'splits/good.txt'), pipeline=PIPELINE)
    assert [len(item['inputs']) for item in kept] == [3, 3]


def test_damaged_exif_data_turn_nothing(tmp_path):
    image, _ = make(tmp_path, 'bdd100k', count=1)[0]
    Image.open(image).save(image, exif=b'Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12')
    assert status_of(check_data.main, ['bdd100k', str(tmp_path), '--workers', '1']) == 0
    assert StreetsDataset('bdd100k', data_root=str(tmp_path), pipeline=PIPELINE)[0]['inputs'].shape == (3, 32, 48)


@pytest.mark.parametrize('wrapped', [False, True])
def test_mmsegs_own_loading_step_compares_sizes_too(tmp_path, wrapped):
    (image, label), *_ = make(tmp_path, 'gta5')
    write(label, np.zeros((48, 32), np.uint8))
    steps = [PIPELINE[0], dict(type='LoadAnnotations'), dict(type='RandomCrop', crop_size=(16, 16)), PIPELINE[2]]
    dataset = GTA5Dataset(data_root=str(tmp_path), pipeline=[] if wrapped else steps)
    if wrapped:
        dataset = MultiDomainDataset({'a': dataset}, pipeline=steps)
    with pytest.raises(ValueError, match=rf'label {label} is 32x48, and its image {image} 48x32'):
        dataset[0]
    assert dataset[1]['inputs'].shape == (3, 16, 16)


def test_every_shipped_pipeline_compares_sizes():
    files = list(config_root().rglob('*.py'))
    assert sum('LoadTrainIds' in file.read_text() for file in files) > 5
    assert not [file for file in files if "'LoadAnnotations'" in file.read_text()]


def test_label_of_a_layout_without_converter_is_checked_pair_by_pair(tmp_path, capsys):
    pairs = make(tmp_path, 'acdc_fog', count=8)
    for (image, label), fault in zip(
        pairs, (_cut, _empty, _other_size, None, _other_ids, _cut, None, None), strict=True
    ):
        if fault is not None:
            fault(label if fault is _other_ids else image)
    pairs[6][1].unlink()
    pairs[7][0].unlink()
    assert status_of(check_data.main, ['acdc_fog', str(tmp_path), '--out', str(tmp_path / 'r'), '--workers', '2']) == 1
    found = json.loads((tmp_path / 'r/acdc_fog/val/prepare_report.json').read_text())
    kinds = ['unreadable', 'unreadable', 'size mismatch', 'unknown id', 'unreadable', 'missing label', 'missing image']
    assert [entry['kind'] for entry in found['bad']] == kinds
    assert (found['pairs'], found['counts']['good']) == (8, 1)
    assert '100 pairs were released' in capsys.readouterr().out


def test_the_check_names_layouts_splits_and_folders(tmp_path, capsys):
    assert status_of(check_data.main, ['acdc', str(tmp_path)]) == 2
    assert "unknown layout 'acdc'; did you mean 'acdc_" in capsys.readouterr().err
    assert status_of(check_data.main, ['bdd100k', str(tmp_path), '--split', 'test']) == 2
    assert status_of(check_data.main, ['bdd100k', str(tmp_path)]) == 2
    assert f'{tmp_path}/images/10k/val is not a folder' in capsys.readouterr().err


@pytest.mark.parametrize(('layout', 'release'), RELEASES)
def test_the_check_passes_the_defects_of_the_release(tmp_path, layout, release):
    count = make_bdd(tmp_path, layout, release=release)
    assert status_of(check_data.main, [layout, str(tmp_path), '--workers', '1']) == 0
    found = json.loads((tmp_path / 'checks' / layout / 'val/prepare_report.json').read_text())
    assert found['counts']['good'] == 3
    assert len(found['left_out']) == count - 3 + (2 if release == 2021 else 0)
