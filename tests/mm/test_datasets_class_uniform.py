"""Class-uniform sampling and the crops around what it draws, against the worked example and plain loops."""

import itertools
import json
from collections import Counter

import numpy as np
import pytest
import torch
from golden_data import GOLDEN
from PIL import Image
from torch.utils.data import DataLoader

pytest.importorskip('mmseg')
from mmseg.registry import DATA_SAMPLERS, DATASETS, TRANSFORMS

import mmseg_stylenorm  # noqa: F401 (registers)
from mmseg_stylenorm.datasets import Centroid, ClassUniformSampler, class_centroids, class_uniform, label_statistics
from mmseg_stylenorm.datasets.class_uniform import class_uniform_epoch, places
from mmseg_stylenorm.datasets.geometry import crop_place

EXAMPLE = json.loads((GOLDEN / 'class_uniform_example.json').read_text())
LABELS = [np.array(label, np.uint8) for label in EXAMPLE['labels']]
CLASSES = EXAMPLE['num_classes']


@pytest.fixture(autouse=True)
def _mmseg_scope():
    from mmengine.registry import init_default_scope

    init_default_scope('mmseg')


def write(root, labels):
    """A GTA5 of these labels; image k has the grey value k."""
    for k, ids in enumerate(labels):
        for folder, name, array in (
            ('images', f'{k:03d}.png', np.full((*ids.shape, 3), k, np.uint8)),
            ('labels', f'{k:03d}_labelTrainIds.png', ids),
        ):
            (root / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(root / folder / name)
    return root


def gta5(root, *steps, **options):
    load = [{'type': 'LoadImageFromFile'}, {'type': 'LoadTrainIds'}]
    return {
        'type': 'GTA5Dataset',
        'data_root': str(root),
        'pipeline': [*load, *steps, {'type': 'PackSegInputs'}],
        **options,
    }


@pytest.fixture
def example(tmp_path):
    return DATASETS.build(gta5(write(tmp_path, LABELS)))


def told(index):
    return {'image': int(index), **({'x': index.x, 'y': index.y} if isinstance(index, Centroid) else {})}


def test_centroids_are_those_of_the_example(example):
    found = class_centroids(example, EXAMPLE['tile'])
    assert {str(c): [told(index) for index in pool] for c, pool in enumerate(found[:CLASSES])} == EXAMPLE['centroids']
    assert not any(found[CLASSES:])
    assert all(index.category == c for c, pool in enumerate(found) for index in pool)


def test_an_epoch_is_that_of_the_example(example):
    shuffles = iter(EXAMPLE['shuffles'])
    pools = class_centroids(example, EXAMPLE['tile'])[:CLASSES]
    epoch = class_uniform_epoch(len(LABELS), pools, EXAMPLE['class_uniform_pct'], lambda n: next(shuffles))
    drawn = [told(i) | ({'cls': i.category} if isinstance(i, Centroid) else {}) for i in epoch]
    assert drawn == EXAMPLE['epoch']
    assert next(shuffles, None) is None


@pytest.mark.parametrize('crop', EXAMPLE['crops'])
def test_crops_are_those_of_the_example(crop, monkeypatch):
    """Run on a picture whose pixels tell their place: the crop holds the box of the example."""
    width, height, size = crop['width'], crop['height'], crop['crop']
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0], image[..., 1] = np.arange(width), np.arange(height)[:, None]
    draws = iter(crop['draws'])

    def drawn(low, end, size):
        expected = next(draws)
        assert [low, end - 1] == expected[:2]
        return torch.tensor(expected[2])

    step = TRANSFORMS.build({'type': 'RandomScaleCrop', 'crop_size': size})
    monkeypatch.setattr(step, 'draw_ratio', lambda: crop['scale'])
    monkeypatch.setattr(torch, 'randint', drawn)
    index = 5 if crop['centroid'] is None else Centroid(5, *crop['centroid'], 3)
    label = (image[..., 0] // 8).copy()
    results = step({'img': image.copy(), 'gt_seg_map': label, 'seg_fields': ['gt_seg_map'], 'sample_idx': index})
    left, top, right, bottom = crop['box']
    scaled_width, scaled_height = crop['scaled']
    scaled = np.asarray(Image.fromarray(image).resize((scaled_width, scaled_height), Image.BICUBIC))
    ids = np.asarray(Image.fromarray(label).resize((scaled_width, scaled_height), Image.NEAREST))
    x, y = ((size - side) // 2 + 1 if side < size else 0 for side in crop['scaled'])
    for key, array, value in (('img', scaled, 0), ('gt_seg_map', ids, 255)):
        padded = np.pad(array, ((y, y), (x, x), (0, 0))[: array.ndim], constant_values=value)
        assert np.array_equal(results[key], padded[top:bottom, left:right]), key
    assert results['img_shape'] == (size, size)
    assert next(draws, None) is None


def test_a_picture_of_the_crops_size_is_taken_whole():
    step = TRANSFORMS.build({'type': 'RandomScaleCrop', 'crop_size': (16, 24), 'ratio_range': (1, 1)})
    image = np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8)
    results = step({'img': image.copy(), 'seg_fields': [], 'sample_idx': Centroid(0, 2, 3, 1)})
    assert np.array_equal(results['img'], image)


def test_a_crop_holds_its_centroid_or_misses_it_by_one_pixel():
    draw = np.random.default_rng(0).integers
    for _ in range(300):
        centroid = draw(0, 40), draw(0, 22)
        left, top = crop_place((40, 22), (16, 12), centroid, lambda a, b: draw(a, b + 1))
        assert left <= centroid[0] <= left + 16
        assert top <= centroid[1] <= top + 12
        assert 0 <= left <= 24
        assert 0 <= top <= 10


def test_only_whole_tiles_are_looked_at():
    """1914x1052 has one tile of 1024, 2048x1024 two, SYNTHIA's 1280x760 none."""
    assert [len(places(np.full(size, 3, np.uint8), 1024)) for size in ((1052, 1914), (1024, 2048), (760, 1280))] == [
        1,
        2,
        0,
    ]
    ids = np.full((1052, 1914), 255, np.uint8)
    ids[:, 1024:] = ids[1024:] = 7
    assert places(ids, 1024) == []
    ids[10:13, 20:30] = 4
    assert places(ids, 1024) == [(4, 24, 11)]


def rare(tmp_path, count=200):
    """Class 0 in all of `count` pictures, class 5 in two, class 18 in one; two tiles of 8 in each."""
    labels = [np.zeros((8, 16), np.uint8) for _ in range(count)]
    labels[3][2:6, 9:13] = labels[7][:2, :2] = 5
    labels[9][5:, 12:] = 18
    return DATASETS.build(
        gta5(write(tmp_path, labels), {'type': 'RandomScaleCrop', 'crop_size': 8, 'ratio_range': (1, 1)})
    )


@pytest.mark.slow
def test_a_loader_shows_each_class_as_often_as_the_others(tmp_path):
    """What the crops hold, over some epochs, through workers."""
    dataset = rare(tmp_path)
    cfg = {'type': 'ClassUniformSampler', 'tile': 8}
    sampler = DATA_SAMPLERS.build(cfg, default_args={'dataset': dataset, 'seed': 0})
    each, epoch = int(200 * 0.5 / 19), 200 - 19 * 5 + 3 * 5
    assert each == 5
    loader = DataLoader(dataset, batch_size=None, num_workers=2, sampler=itertools.islice(sampler, 10 * epoch))
    shown = Counter()
    for item in loader:
        ids = item['data_samples'].gt_sem_seg.data
        assert ids.shape == (1, 8, 8)
        shown.update(set(ids.unique().tolist()) & {5, 18})
    # 50 crops around each, of which some show only its edge, or just miss it; whole pictures are few and show it rarely
    assert 40 <= shown[5] <= 70
    assert 40 <= shown[18] <= 60
    whole = Counter(
        drawn.category if isinstance(drawn, Centroid) else None for drawn in itertools.islice(sampler, epoch)
    )
    assert whole == {None: 105, 0: 5, 5: 5, 18: 5}


def test_each_epoch_draws_anew_and_shows_no_image_twice_before_all_were(tmp_path):
    sampler = ClassUniformSampler(rare(tmp_path, 60), share=0, tile=8, seed=1)
    draws = list(itertools.islice(sampler, 180))
    epochs = [draws[k : k + 60] for k in (0, 60, 120)]
    assert all(sorted(epoch) == list(range(60)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_processes_share_one_stream_and_a_resumed_one_goes_on_in_it(example, monkeypatch):
    def stream(start=0):
        sampler = ClassUniformSampler(example, tile=4, seed=5)
        sampler.skip(start)
        return list(map(repr, itertools.islice(sampler, 60)))

    whole = stream()
    assert stream(20)[:40] == whole[20:]
    parts = []
    for rank in range(2):
        monkeypatch.setattr('mmseg_stylenorm.datasets.sampling.get_dist_info', lambda rank=rank: (rank, 2))
        parts.append(stream()[:30])
    assert [index for pair in zip(*parts, strict=True) for index in pair] == whole


def test_centroids_are_kept_in_a_file_for_each_size_of_tiles_and_checked_against_the_labels(
    example, tmp_path, monkeypatch
):
    expected = class_centroids(example, 4)
    read, ids = [], label_statistics.read_ids
    monkeypatch.setattr(label_statistics, 'read_ids', lambda file: read.append(file) or ids(file))
    assert class_centroids(example, 4) == expected
    assert read == []
    class_centroids(example, 2)
    assert len(read) == len(LABELS)
    assert {path.name for path in tmp_path.glob('*.json')} == {f'class_centroids_tile{tile}.json' for tile in (2, 4)}
    read.clear()
    Image.fromarray(np.full((8, 8), 6, np.uint8)).save(tmp_path / 'labels/004_labelTrainIds.png')
    assert [told(index) for index in class_centroids(example, 4)[6]] == [
        {'image': 4, 'x': x, 'y': y} for x, y in ((1, 1), (5, 1), (1, 5), (5, 5))
    ]
    assert len(read) == 1


def test_a_count_that_was_stopped_goes_on(example, monkeypatch):
    monkeypatch.setattr(label_statistics, 'EVERY', 5)
    measured = []

    def stops(ids, tile):
        measured.append(None)
        if len(measured) > 7:
            raise KeyboardInterrupt
        return places(ids, tile)

    monkeypatch.setattr(class_uniform, 'places', stops)
    with pytest.raises(KeyboardInterrupt):
        class_centroids(example, 4)
    measured.clear()
    monkeypatch.setattr(class_uniform, 'places', lambda ids, tile: measured.append(None) or places(ids, tile))
    class_centroids(example, 4)
    assert len(measured) == len(LABELS) - 5


def test_a_part_of_the_classes_has_its_own_numbers(example, tmp_path):
    chosen = [example.metainfo['classes'][c] for c in (4, 0)]
    part = DATASETS.build(gta5(tmp_path, metainfo={'classes': chosen}))
    whole = class_centroids(example, 4)
    assert [list(map(told, pool)) for pool in class_centroids(part, 4)] == [list(map(told, whole[c])) for c in (4, 0)]


def test_what_cannot_be_drawn_by_classes_is_refused(example, tmp_path):
    with pytest.raises(ValueError, match=r'no label holds a class in a whole tile of 1024x1024.* Smaller tiles: tile='):
        ClassUniformSampler(example)
    with pytest.raises(TypeError, match='lists its files, got a RepeatDataset'):
        ClassUniformSampler(DATASETS.build({'type': 'RepeatDataset', 'times': 2, 'dataset': gta5(tmp_path)}), tile=4)
    with pytest.raises(ValueError, match=r'0 <= share <= 1 and tile >= 1, got 2 and 4'):
        ClassUniformSampler(example, share=2, tile=4)
    with pytest.raises(ValueError, match=r'got 0 and \(0\.5, 2\.0\)'):
        TRANSFORMS.build({'type': 'RandomScaleCrop', 'crop_size': 0})
    with pytest.raises(ValueError, match=r'got 8 and \(2, 1\)'):
        TRANSFORMS.build({'type': 'RandomScaleCrop', 'crop_size': 8, 'ratio_range': (2, 1)})
    with pytest.raises(ValueError, match='positive height, got 0'):
        TRANSFORMS.build({'type': 'ResizeHeight', 'height': 0})


@pytest.mark.parametrize(('size', 'expected'), [((1200, 1600), (1536, 2048)), ((1600, 1200), (1536, 1152))])
def test_the_height_becomes_that_of_the_protocol_also_of_portraits(size, expected):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    step = TRANSFORMS.build({'type': 'ResizeHeight', 'height': 1536})
    results = step({'img': image, 'gt_seg_map': image[..., 0], 'seg_fields': ['gt_seg_map']})
    assert results['img'].shape[:2] == results['gt_seg_map'].shape == results['img_shape'] == expected
    pillow = np.asarray(Image.fromarray(image).resize(expected[::-1], Image.BICUBIC))
    assert np.array_equal(results['img'], pillow)
