"""StreetsDataset and MultiDomainDataset: every layout on a generated sample, every planted fault by name."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip('mmseg')
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS, METRICS

import mmseg_stylenorm  # noqa: F401 (registers the metric)
from mmseg_stylenorm.datasets import LAYOUTS, GTA5Dataset, MultiDomainDataset, StreetsDataset, streets
from timm_stylenorm.runner.configs import config_root
from timm_stylenorm.runner.loaders import domains

PIPELINE = [{'type': 'LoadImageFromFile'}, {'type': 'LoadTrainIds'}, {'type': 'PackSegInputs'}]
# Files of one pair of each layout as the data sets are distributed, or as their converters leave them.
FILES = {
    'gta5': ('images/00001.png', 'labels/00001_labelTrainIds.png'),
    'synthia': ('RGB/0000001.png', 'GT/LABELS/0000001_labelTrainIds.png'),
    'cityscapes': (
        'leftImg8bit/val/lindau/lindau_000001_000990_leftImg8bit.png',
        'gtFine/val/lindau/lindau_000001_000990_gtFine_labelTrainIds.png',
    ),
    'bdd100k': ('images/10k/val/7d06fefd-0001.jpg', 'labels/sem_seg/masks/val/7d06fefd-0001.png'),
    'bdd100k_seg': ('seg/images/val/7d06fefd-0001.jpg', 'seg/labels/val/7d06fefd-0001_train_id.png'),
    'mapillary': ('validation/images/_1Gn_x-0001.jpg', 'validation/labelTrainIds/_1Gn_x-0001.png'),
    'nthu': ('Images/Test/pano_00001_0_180.png', 'Labels/Test/pano_00001_0_180_labelTrainIds.png'),
    'dark_zurich': (
        'rgb_anon/val/night/GOPR0356/GOPR0356_frame_000001_rgb_anon.png',
        'gt/val/night/GOPR0356/GOPR0356_frame_000001_gt_labelTrainIds.png',
    ),
    'night_driving': (
        'leftImg8bit/test/night/0_frame_0001_leftImg8bit.png',
        'gtCoarse_daytime_trainvaltest/test/night/0_frame_0001_gtCoarse_labelTrainIds.png',
    ),
}
FILES |= {
    f'acdc_{condition}': (
        f'rgb_anon/{condition}/val/GP010001/GP010001_frame_000001_rgb_anon.png',
        f'gt/{condition}/val/GP010001/GP010001_frame_000001_gt_labelTrainIds.png',
    )
    for condition in ('fog', 'night', 'rain', 'snow')
}


def write(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def make(root: Path, layout: str, count: int = 3) -> list[tuple[Path, Path]]:
    """`count` pairs, in which label number k holds train id k and ignored pixels, and is as bright as k."""
    pairs = []
    for number in range(1, count + 1):
        image, label = (root / file.replace('0001', f'{number:04d}') for file in FILES[layout])
        ids = np.full((32, 48), number, np.uint8)
        ids[:4] = 255
        write(image, np.full((32, 48, 3), number, np.uint8))
        write(label, ids)
        pairs.append((image, label))
    return pairs


@pytest.fixture(autouse=True)
def _mmseg_scope(monkeypatch) -> None:
    init_default_scope('mmseg')


@pytest.mark.parametrize('layout', LAYOUTS)
def test_a_layout_pairs_images_with_labels(tmp_path, layout):
    pairs = make(tmp_path, layout)
    dataset = StreetsDataset(layout, data_root=str(tmp_path), pipeline=PIPELINE)
    found = [(Path(item['img_path']), Path(item['seg_map_path'])) for item in map(dataset.get_data_info, range(3))]
    assert found == pairs
    assert len(dataset) == 3
    assert len(dataset.metainfo['classes']) == 19
    for number, item in enumerate(dataset, 1):
        assert item['inputs'].float().mean().round() == number
        assert item['data_samples'].gt_sem_seg.data.unique().tolist() == [number, 255]


@pytest.mark.parametrize('layout', LAYOUTS)
def test_a_missing_label_is_named(tmp_path, layout):
    _, (_, label), _ = make(tmp_path, layout)
    label.unlink()
    with pytest.raises(FileNotFoundError, match=rf'^{layout}: 1 of 3 images have no label in .*{label.name}'):
        StreetsDataset(layout, data_root=str(tmp_path))


@pytest.mark.parametrize('layout', LAYOUTS)
def test_a_missing_image_is_named(tmp_path, layout):
    _, (image, _), _ = make(tmp_path, layout)
    image.unlink()
    with pytest.raises(FileNotFoundError, match=rf'1 of 3 labels have no image .*{image.name}.*is the download whole'):
        StreetsDataset(layout, data_root=str(tmp_path))


@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('half', [0, 1])
def test_a_missing_half_is_named_with_what_to_do(tmp_path, layout, half):
    make(tmp_path, layout)
    parts = Path(FILES[layout][half]).parts
    shutil.rmtree(tmp_path / parts[0] if layout != 'mapillary' else tmp_path / parts[0] / parts[1])
    with pytest.raises(FileNotFoundError, match=rf'{layout}: the folder {tmp_path}.* does not exist; .*(tools|unpack)'):
        StreetsDataset(layout, data_root=str(tmp_path))


@pytest.mark.parametrize('layout', LAYOUTS)
def test_an_id_out_of_range_names_file_and_ids(tmp_path, layout):
    _, (_, label), _ = make(tmp_path, layout)
    write(label, np.full((32, 48), 33, np.uint8))
    dataset = StreetsDataset(layout, data_root=str(tmp_path), pipeline=PIPELINE)
    with pytest.raises(ValueError, match=rf'label {label} holds class ids \[33\]; expected train ids 0\.\.18'):
        dataset[1]


@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('kind', ['16 bits', 'colours'])
def test_a_label_of_the_wrong_kind_is_refused(tmp_path, layout, kind):
    _, (_, label), _ = make(tmp_path, layout)
    wrong = np.full((32, 48), 7 * 256 + 1, np.uint16) if kind == '16 bits' else np.zeros((32, 48, 3), np.uint8)
    write(label, wrong)
    dataset = StreetsDataset(layout, data_root=str(tmp_path), pipeline=PIPELINE)
    with pytest.raises(ValueError, match=r'holds class ids \[1793\]' if kind == '16 bits' else r'expected \(H, W\)'):
        dataset[1]


@pytest.mark.parametrize('layout', LAYOUTS)
def test_half_a_download_of_both_is_an_error_where_all_is_expected(tmp_path, layout):
    make(tmp_path, layout)
    released = next(iter(LAYOUTS[layout].pairs.values()))
    with pytest.raises(ValueError, match=rf'3 images in .*, {released} were released; is the download whole'):
        StreetsDataset(layout, data_root=str(tmp_path), complete=True)


def test_another_number_is_logged_where_the_folders_are_the_layouts(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(streets, 'print_log', lambda text, *_: said.append(text))
    make(tmp_path, 'night_driving')
    StreetsDataset('night_driving', data_root=str(tmp_path))
    assert '3 images in' in said[0]
    assert '50 were released' in said[0]
    own = {'img_path': 'leftImg8bit/test/night'}
    StreetsDataset('night_driving', data_root=str(tmp_path), data_prefix=own)
    assert len(said) == 1
    with pytest.raises(ValueError, match='50 were released'):
        StreetsDataset('night_driving', data_root=str(tmp_path), data_prefix=own, complete=True)


def test_what_is_complete_passes(tmp_path):
    make(tmp_path, 'dark_zurich', count=50)
    assert len(StreetsDataset('dark_zurich', data_root=str(tmp_path), complete=True)) == 50


@pytest.mark.parametrize(
    'lines',
    ['00003\n00001\n', '00003.png\n\n00001.png\n', 'images/00003.png labels/00003.png\nGTA/images/00001.png 1\n'],
    ids=['names', 'files', 'columns of paths'],
)
def test_split_lists_of_others_go_in_as_they_are(tmp_path, lines):
    make(tmp_path, 'gta5')
    (tmp_path / 'train.txt').write_text(lines)
    dataset = GTA5Dataset(data_root=str(tmp_path), ann_file='train.txt')
    assert [Path(dataset.get_data_info(k)['img_path']).name for k in range(len(dataset))] == ['00003.png', '00001.png']


def test_a_split_list_of_cityscapes_names_folders_or_not(tmp_path):
    pairs = make(tmp_path, 'cityscapes')
    (tmp_path / 'val.txt').write_text(
        'lindau/lindau_000002_000990_leftImg8bit.png\nleftImg8bit/val/lindau/lindau_000001_000990_leftImg8bit.png\n'
    )
    dataset = StreetsDataset('cityscapes', data_root=str(tmp_path), ann_file='val.txt')
    assert [Path(dataset.get_data_info(k)['img_path']) for k in range(2)] == [pairs[1][0], pairs[0][0]]


def test_a_split_list_must_fit_the_images(tmp_path):
    make(tmp_path, 'gta5')
    (tmp_path / 'train.txt').write_text('00001\n00007\n00008\n')
    with pytest.raises(FileNotFoundError, match=r'2 of the 3 images in .*train\.txt are not in .*: 00007, 00008'):
        GTA5Dataset(data_root=str(tmp_path), ann_file='train.txt')


def test_a_list_that_may_be_missing_counts_where_it_is(tmp_path):
    make(tmp_path, 'gta5')
    official = {'data_root': str(tmp_path), 'ann_file': 'splits/train.txt', 'ann_missing_ok': True}
    assert len(GTA5Dataset(**official)) == 3
    (tmp_path / 'splits').mkdir()
    (tmp_path / 'splits/train.txt').write_text('00002\n')
    (item,) = GTA5Dataset(**official).load_data_list()
    assert Path(item['img_path']).stem == '00002'


def test_images_alone_are_enough_without_a_label_folder(tmp_path):
    make(tmp_path, 'cityscapes')
    shutil.rmtree(tmp_path / 'gtFine')
    prefix = {'img_path': 'leftImg8bit/val'}
    dataset = StreetsDataset('cityscapes', data_root=str(tmp_path), data_prefix=prefix, pipeline=PIPELINE[::2])
    assert len(dataset) == 3
    assert 'gt_sem_seg' not in dataset[0]['data_samples']


def test_unknown_layouts_and_splits_are_refused_with_what_is_near():
    with pytest.raises(ValueError, match=r"unknown layout 'cityscape'; did you mean 'cityscapes'"):
        StreetsDataset('cityscape')
    with pytest.raises(ValueError, match=r"mapillary: unknown split 'val'; .*Known: training, validation|Known"):
        StreetsDataset('mapillary', split='val')


@pytest.fixture
def two(tmp_path) -> dict[str, dict]:
    """Configs of two domains."""
    configs = {}
    for layout, count in (('bdd100k', 2), ('acdc_fog', 3)):
        make(tmp_path / layout, layout, count)
        configs[layout] = dict(
            type='StreetsDataset', layout=layout, data_root=str(tmp_path / layout), pipeline=PIPELINE
        )
    return configs


@pytest.mark.parametrize('kind', ['MultiDomainDataset', 'DomainConcatDataset'])
def test_samples_and_batches_say_their_domain(two, kind):
    dataset = DATASETS.build(dict(type=kind, domains=two))
    assert dataset.metainfo['domains'] == ['bdd100k', 'acdc_fog']
    expected = ['bdd100k'] * 2 + ['acdc_fog'] * 3
    assert [item['data_samples'].domain for item in dataset] == expected
    assert domains(dataset) == expected  # what AdaBNHook reads
    assert pseudo_collate(list(dataset))['domain'] == expected


def test_each_view_of_test_time_augmentation_says_its_domain(two):
    flips = [[dict(type='RandomFlip', prob=0.0), dict(type='RandomFlip', prob=1.0)], [PIPELINE[2]]]
    two['acdc_fog']['pipeline'] = [*PIPELINE[:2], dict(type='TestTimeAug', transforms=flips)]
    item = MultiDomainDataset(two, only='acdc_fog')[1]
    assert [view.domain for view in item['data_samples']] == ['acdc_fog'] * 2
    assert len(item['domain']) == len(item['inputs']) == 2


def test_only_chooses_domains(two):
    dataset = MultiDomainDataset(two, only=['acdc_fog'])
    assert (len(dataset), dataset.metainfo['domains']) == (3, ['acdc_fog'])
    with pytest.raises(ValueError, match=r"unknown domain 'acdc_fgo'; did you mean 'acdc_fog'"):
        MultiDomainDataset(two, only='acdc_fgo')
    with pytest.raises(ValueError, match='no domain'):
        MultiDomainDataset({})


def test_domains_of_other_classes_are_refused(two):
    two['acdc_fog']['metainfo'] = dict(classes=['road', 'sky'])
    with pytest.raises(ValueError, match='the classes of acdc_fog are not those of bdd100k'):
        MultiDomainDataset(two)


@pytest.mark.parametrize('source', ['gta5', 'synthia'])
def test_the_shipped_test_set_of_all_domains_builds_and_loads(tmp_path, monkeypatch, source):
    monkeypatch.chdir(tmp_path)
    cfg = Config.fromfile(config_root() / f'_base_/datasets/{source.replace("gta5", "gtav")}2domains_768x768.py')
    for part in [cfg.train_dataloader.dataset, *cfg.test_dataloader.dataset.domains.values()]:
        part.pop('complete', None)
        make(tmp_path / part.data_root, part.get('layout', 'gta5'), count=1)
    train = DATASETS.build(cfg.train_dataloader.dataset)
    assert (len(train), train.layout, train[0]['inputs'].shape[1] <= 768) == (1, source, True)
    assert DATASETS.build(cfg.test_dataloader.dataset).metainfo['domains'] == ['cityscapes', 'bdd100k', 'mapillary']
    dataset = DATASETS.build({**cfg.test_dataloader.dataset, 'only': None})
    assert len(dataset) == 10
    METRICS.build(cfg.test_evaluator).dataset_meta = dataset.metainfo  # checks the names of domains
    shapes = {item['domain']: (item['data_samples'].ori_shape, item['inputs'].shape[1:]) for item in dataset}
    assert shapes.pop('mapillary') == ((1536, 1536), (1536, 1536))
    assert set(shapes.values()) == {((32, 48), (32, 48))}


def test_the_docs_tell_of_every_layout_with_its_numbers():
    rows = [
        row for row in (config_root().parent / 'docs/datasets.md').read_text().splitlines() if row.startswith('| `')
    ]
    for layout, known in LAYOUTS.items():
        (row,) = (row for row in rows if f'`{layout}`' in row)
        if layout != 'bdd100k_seg':  # "the same"
            assert all(f'{count:,}' in row for count in known.pairs.values())
