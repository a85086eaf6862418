"""What samplers draw: FADA's class balance and DAFormer's rare classes, against plain loops and worked examples."""

import itertools
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

pytest.importorskip('mmseg')
from golden_data import GOLDEN
from mmseg.registry import DATA_SAMPLERS, DATASETS

import mmseg_stylenorm  # noqa: F401 (registers)
from mmseg_stylenorm.datasets import ClassBalancedSampler, RareClassDataset, class_pixels, label_statistics, sampling
from mmseg_stylenorm.datasets.rare_class import rare_class_probabilities

RARE = json.loads((GOLDEN / 'rare_class_example.json').read_text())
SHOWN = [{0, 1, 2}] * 16 + [{0, 1, 8}] * 6 + [{0, 18}] * 2  # classes of the images of `streets`


def write(root, rows, size=(8, 12)):
    """A GTA5 of labels whose rows of pixels are given: each row one class."""
    for k, row in enumerate(rows):
        ids = np.full(size, 255, np.uint8)
        ids[: len(row)] = np.array(row, np.uint8)[:, None]
        for folder, name, array in (('images', f'{k:03d}.png', np.zeros((*size, 3), np.uint8)),
                                    ('labels', f'{k:03d}_labelTrainIds.png', ids)):  # fmt: skip
            (root / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(root / folder / name)
    return str(root)


def gta5(root, **options):
    steps = [
        {'type': 'LoadImageFromFile'},
        {'type': 'LoadTrainIds'},
        *options.pop('steps', ()),
        {'type': 'PackSegInputs'},
    ]
    return {'type': 'GTA5Dataset', 'data_root': str(root), 'pipeline': steps, **options}


@pytest.fixture
def streets(tmp_path):
    write(tmp_path, [sorted(shown) for shown in SHOWN])
    return DATASETS.build(gta5(tmp_path))


def test_pixels_of_each_class_are_counted_once_and_again_where_a_label_has_changed(streets, tmp_path, monkeypatch):
    pixels = class_pixels(streets)
    assert pixels.shape == (len(SHOWN), 19)
    assert [set(row.nonzero()[0]) for row in pixels] == SHOWN
    assert set(pixels[pixels > 0]) == {12}
    read, ids = [], label_statistics.read_ids
    monkeypatch.setattr(label_statistics, 'read_ids', lambda file: read.append(Path(file).name[:3]) or ids(file))
    assert np.array_equal(class_pixels(streets), pixels)
    assert read == []
    Image.fromarray(np.full((8, 12), 7, np.uint8)).save(tmp_path / 'labels/004_labelTrainIds.png')
    assert class_pixels(streets)[4].tolist() == [96 if c == 7 else 0 for c in range(19)]
    assert read == ['004']
    (tmp_path / 'class_pixels.json').write_text('{"a": ')
    class_pixels(streets)
    assert len(read) == 1 + len(SHOWN)


def test_a_subset_of_the_classes_is_counted_by_its_own_ids(streets, tmp_path):
    chosen = [streets.metainfo['classes'][c] for c in (18, 0)]
    part = DATASETS.build(gta5(tmp_path, metainfo={'classes': chosen}))
    assert np.array_equal(class_pixels(part), class_pixels(streets)[:, [18, 0]])


def test_a_label_that_is_no_map_of_train_ids_is_named(streets, tmp_path):
    Image.fromarray(np.zeros((8, 12, 3), np.uint8)).save(tmp_path / 'labels/003_labelTrainIds.png')
    with pytest.raises(ValueError, match=r'003_labelTrainIds\.png has shape \(8, 12, 3\)'):
        class_pixels(streets)
    (tmp_path / 'labels/003_labelTrainIds.png').write_bytes(b'\x89PNG')
    with pytest.raises(ValueError, match=r'003_labelTrainIds\.png cannot be decoded'):
        class_pixels(streets)


def test_a_folder_that_cannot_be_written_costs_the_count_alone(streets, monkeypatch):
    def full(file):
        raise OSError(28, 'No space left on device', str(file))

    monkeypatch.setattr(label_statistics, 'atomic_write', full)
    assert len(class_pixels(streets)) == len(SHOWN)


def by_the_rule(count, block, seed):
    """How often FADA's rule draws each image, by loops over the classes as its data set has them."""
    rng = np.random.RandomState(seed)
    lists = {c: [k for k, shown in enumerate(SHOWN) if c in shown] for c in sorted(set().union(*SHOWN))}
    position, drawn = dict.fromkeys(lists, 0), Counter()
    for step in range(count):
        if step % block == 0:
            tally = dict.fromkeys(lists, 0)
        total = sum(tally.values())
        weights = [1 / np.log(1 + 1e-2 + (n / total if total else 0)) for n in tally.values()]
        c = list(lists)[rng.choice(len(lists), p=np.array(weights) / sum(weights))]
        if position[c] == len(lists[c]):
            rng.shuffle(lists[c])
            position[c] = 0
        image = lists[c][position[c]]
        position[c] += 1
        drawn[image] += 1
        for shown in SHOWN[image]:
            tally[shown] += 1
    return drawn


def shares(drawn, total):
    """Of images with classes 2, 8, 18."""
    return [sum(drawn[k] for k, shown in enumerate(SHOWN) if c in shown) / total for c in (2, 8, 18)]


def test_classes_are_drawn_by_fadas_rule(streets):
    total = 6000
    drawn = Counter(itertools.islice(ClassBalancedSampler(streets, block=300, seed=0), total))
    assert shares(drawn, total) == pytest.approx(shares(by_the_rule(total, 300, 0), total), abs=0.02)
    uniform = shares(Counter(range(len(SHOWN))), len(SHOWN))
    assert shares(drawn, total)[2] > 2 * uniform[2]
    assert shares(drawn, total)[0] < 0.8 * uniform[0]


def test_images_of_a_class_are_used_up_before_one_comes_again(tmp_path):
    write(tmp_path, [[3]] * 7)
    sampler = ClassBalancedSampler(DATASETS.build(gta5(tmp_path)), block=7, seed=0)
    drawn = list(itertools.islice(sampler, 70))
    assert all(sorted(drawn[k : k + 7]) == list(range(7)) for k in range(0, 70, 7))
    assert len({tuple(drawn[k : k + 7]) for k in range(0, 70, 7)}) > 5


def test_processes_share_one_stream_and_a_resumed_one_goes_on_in_it(streets, monkeypatch):
    whole = list(itertools.islice(ClassBalancedSampler(streets, block=10, seed=5), 60))
    parts = []
    for rank in range(2):
        monkeypatch.setattr(sampling, 'get_dist_info', lambda rank=rank: (rank, 2))
        sampler = ClassBalancedSampler(streets, block=10, seed=5)
        parts.append(list(itertools.islice(sampler, 30)))
        sampler.skip(11)
        assert list(itertools.islice(sampler, 19)) == parts[-1][11:]
    assert [index for pair in zip(*parts, strict=True) for index in pair] == whole
    assert list(itertools.islice(ClassBalancedSampler(streets, block=10, seed=6), 60)) != whole


def test_the_source_of_an_adaptation_is_balanced(streets, tmp_path):
    target = gta5(tmp_path, data_prefix={'img_path': 'images'})
    target['pipeline'] = [target['pipeline'][0], target['pipeline'][-1]]
    pairs = DATASETS.build({'type': 'UDADataset', 'source': gta5(tmp_path), 'target': target})
    cfg = {'type': 'ClassBalancedSampler', 'block': 100}
    sampler = DATA_SAMPLERS.build(cfg, default_args={'dataset': pairs, 'seed': 0})
    loader = DataLoader(pairs, 4, sampler=sampler, collate_fn=lambda items: items)
    seen = [item['data_samples'].img_path for item in itertools.chain.from_iterable(itertools.islice(loader, 100))]
    assert sum(Path(path).stem >= '022' for path in seen) / len(seen) > 0.17  # 2 of 24 images, a twelfth
    with pytest.raises(ValueError, match='images without labels'):
        ClassBalancedSampler(DATASETS.build(target))


def test_no_class_and_an_empty_block_are_refused(streets, tmp_path):
    with pytest.raises(ValueError, match='expected a block of 1 draw or more, got 0'):
        ClassBalancedSampler(streets, block=0)
    write(tmp_path / 'void', [[255]])
    with pytest.raises(ValueError, match='no label holds a class'):
        ClassBalancedSampler(DATASETS.build(gta5(tmp_path / 'void')))


def rare_pixels():
    pixels = np.zeros((len(RARE['pixels_per_image']), 19), np.int64)
    for row, held in zip(pixels, RARE['pixels_per_image'], strict=True):
        for c, count in held.items():
            row[int(c)] = count
    return pixels


@pytest.mark.parametrize('example', RARE['by_temperature'], ids=lambda example: str(example['temperature']))
def test_rare_classes_have_the_probabilities_of_the_authors(example):
    classes, probabilities = rare_class_probabilities(rare_pixels(), example['temperature'])
    assert classes.tolist() == example['classes']
    np.testing.assert_allclose(probabilities, example['probability'], rtol=1e-4)


@pytest.fixture
def rare(streets, monkeypatch):
    """The authors' example as a data set: six images."""
    from mmseg_stylenorm.datasets import rare_class

    monkeypatch.setattr(rare_class, 'class_pixels', lambda dataset, cache: rare_pixels())
    return lambda **options: RareClassDataset(streets, **options)


def test_rare_classes_are_drawn_with_an_image_that_shows_enough_of_them(rare):
    data = rare()
    assert {str(c): images.tolist() for c, images in data.images.items()} == RARE['images_with_class']
    drawn = [data.draw() for _ in range(4000)]
    assert all(image in data.images[c] for c, image in drawn)
    counts = Counter(c for c, _ in drawn)
    for c, p in zip(data.classes, data.probabilities, strict=True):
        assert counts[c] / 4000 == pytest.approx(p, abs=0.03)
    images = Counter(image for c, image in drawn if c == 5)
    assert all(images[k] / counts[5] == pytest.approx(1 / 3, abs=0.05) for k in (1, 2, 4))


def test_draws_follow_the_seed_and_differ_by_the_index(rare):
    data, drawn = rare(), []
    for index in (0, 0, 1):
        torch.manual_seed(3)
        drawn.append([data.draw(index) for _ in range(20)])
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_class_without_an_image_that_shows_enough_of_it_is_refused(rare):
    with pytest.raises(ValueError, match=r"more than min_pixels=13000 pixels of class 'pole'; the most are 12997"):
        rare(min_pixels=13000)
    with pytest.raises(ValueError, match='temperature 0 and attempts 11 must be positive'):
        rare(temperature=0)


def test_crops_are_drawn_until_one_shows_enough_of_the_class(tmp_path):
    """Class 18 fills the last of 8 rows; crops of 2 rows show it in one of 7 cases."""
    root = write(tmp_path, [[0, 0, 0, 0, 0, 0, 0, 18]] * 2)
    crop = [{'type': 'RandomCrop', 'crop_size': (2, 12)}]
    counts = {}
    for attempts in (1, 11):
        options = {'temperature': 0.001, 'min_pixels': 11, 'attempts': attempts}
        data = DATASETS.build({'type': 'RareClassDataset', 'dataset': gta5(root, steps=crop), **options})
        shown = [(data[0]['data_samples'].gt_sem_seg.data == 18).any().item() for _ in range(200)]
        counts[attempts] = sum(shown) / 200
    assert counts[1] == pytest.approx(1 / 7, abs=0.08)
    assert counts[11] == pytest.approx(1 - (6 / 7) ** 11, abs=0.08)
    assert len(data) == 2
    assert len(data.metainfo['classes']) == 19
