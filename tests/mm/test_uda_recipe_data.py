"""What the networks of FADA's and MaxSquare's authors see in training and test: each fact is run, not read."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

pytest.importorskip('mmseg')
from mmengine.dataset import pseudo_collate
from mmengine.runner import Runner
from mmseg.registry import DATASETS, MODELS
from test_uda_configs import narrow
from uda_recipes import FADA, MAXSQUARE, MULTI, SOURCE, SOURCE_FADA, SYNTHIA, expected, load, write_streets

from mmseg_stylenorm.datasets import ColorJitter, RandomGaussianBlur


@pytest.fixture(scope='module')
def streets(tmp_path_factory):
    root = tmp_path_factory.mktemp('streets')
    write_streets(root / 'data')
    return root


@pytest.fixture(autouse=True)
def _there(streets, monkeypatch):
    monkeypatch.chdir(streets)


def still(monkeypatch, *kinds):
    """Turns random transforms off."""
    from mmcv.transforms import RandomFlip

    for kind in kinds or (ColorJitter, RandomGaussianBlur, RandomFlip):
        monkeypatch.setattr(kind, 'transform', lambda self, results: results)


def seen(cfg, items):
    """What the network gets of a training batch, (H, W, 3) by domain, in float64."""
    preprocessor = MODELS.build({**cfg.model.data_preprocessor, 'type': 'UDADataPreProcessor'})
    data = preprocessor(pseudo_collate(items), training='target' in items[0])
    parts = [data['inputs'], *([data['target']['inputs']] if 'target' in data else [])]
    return [part[0].permute(1, 2, 0).double().numpy() for part in parts]


SIZES = {SOURCE_FADA: (1280, 720), FADA: (1280, 720), SOURCE: (1280, 720), MAXSQUARE: (1280, 720)}
SIZES |= {MULTI: (1280, 720), SYNTHIA: (1280, 760)}


@pytest.mark.parametrize('name', SIZES)
@pytest.mark.some(2)
def test_the_network_sees_images_of_the_authors_size_colours_and_scale(name, monkeypatch):
    still(monkeypatch)
    cfg = load(name)
    items = [DATASETS.build(cfg.train_dataloader.dataset)[0]]
    images = seen(cfg, items)
    target = (1280, 640) if name == MULTI else (1024, 512)
    files = [items[0]['data_samples'].img_path, 'data/cityscapes/leftImg8bit/train/t/0_leftImg8bit.png']
    for image, file, size in zip(images, files, (SIZES[name], target), strict=False):
        np.testing.assert_allclose(image, expected(file, size, name), atol=1e-4)
    label = Image.open(items[0]['data_samples'].seg_map_path).resize(SIZES[name], Image.NEAREST)
    ids = items[0]['data_samples'].gt_sem_seg.data[0].numpy()
    if name == SYNTHIA:
        of_16 = [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 15, 17, 18]
        table = np.full(256, 255)
        table[of_16] = range(16)
        assert set(np.unique(ids)) == {*range(16), 255}
        label = table[np.asarray(label)]
    assert np.array_equal(ids, label)


def test_fada_jitters_its_source_before_it_is_scaled_and_nothing_else(monkeypatch):
    sizes = []
    monkeypatch.setattr(ColorJitter, 'transform', lambda self, r: sizes.append((r['img'].shape[:2], self)) or r)
    DATASETS.build(load(FADA).train_dataloader.dataset)[0]
    ((size, step),) = sizes
    assert size == (1052, 1914)
    assert (step.jitter.brightness, step.jitter.contrast, step.jitter.saturation) == ((0.5, 1.5),) * 3
    assert step.jitter.hue == (-0.2, 0.2)
    DATASETS.build(load(SOURCE_FADA).train_dataloader.dataset)[0]
    assert len(sizes) == 1


@pytest.mark.slow
def test_maxsquare_mirrors_and_blurs_both_domains_after_scaling(monkeypatch):
    blurred, transform = [], RandomGaussianBlur.transform

    def watch(self, results):
        before = results['img'].copy()
        done = transform(self, results)
        blurred.append((before.shape[0], not np.array_equal(before, done['img'])))
        return done

    monkeypatch.setattr(RandomGaussianBlur, 'transform', watch)
    data, flips = DATASETS.build(load(MAXSQUARE).train_dataloader.dataset), Counter()
    for _ in range(16):
        item = data[0]
        flips['source'] += item['data_samples'].flip
        flips['target'] += item['target']['data_samples'].flip
    for height, domain in ((720, 'source'), (512, 'target')):
        assert sum(size == height for size, _ in blurred) == 16
        assert 2 <= sum(changed for size, changed in blurred if size == height) <= 13
        assert 3 <= flips[domain] <= 13


def test_maxsquare_takes_the_official_list_where_it_is(streets):
    data = load(SOURCE).train_dataloader.dataset
    assert len(DATASETS.build(data)) == 2
    listed = streets / 'data/gta5/splits/train.txt'
    listed.parent.mkdir(exist_ok=True)
    listed.write_text('1\n')
    assert len(DATASETS.build(data)) == len(DATASETS.build(load(MAXSQUARE).train_dataloader.dataset)) == 1
    listed.unlink()


@pytest.mark.parametrize('name', [FADA, MAXSQUARE])
def test_labels_are_scored_at_the_authors_size(name):
    item = DATASETS.build(load(name).test_dataloader.dataset)[0]
    label = Image.open('data/cityscapes/gtFine/val/t/0_gtFine_labelTrainIds.png')
    label = np.asarray(label if name == FADA else label.resize((1024, 512), Image.NEAREST))
    assert item['inputs'].shape == (3, 512, 1024)
    assert item['data_samples'].ori_shape == label.shape
    assert np.array_equal(item['data_samples'].gt_sem_seg.data[0], label)


def probabilities(model, image, size):
    logits = model.decode_head(model.extract_feat(image))
    return F.interpolate(logits, size, mode='bilinear', align_corners=True).softmax(1)


def test_maxsquare_is_tested_with_the_mirrored_image():
    cfg, small = load(MAXSQUARE), narrow(load(MAXSQUARE))
    options = {key: value for key, value in small.model.items() if key != 'target_weight'}
    options.update(type='EncoderDecoder', data_preprocessor=cfg.model.data_preprocessor)
    model = MODELS.build({**cfg.tta_model, 'module': options}).eval()
    item = DATASETS.build({**cfg.test_dataloader.dataset, 'pipeline': cfg.tta_pipeline})[0]
    (sample,) = model.test_step(pseudo_collate([item]))
    image = (
        torch.from_numpy(expected('data/cityscapes/leftImg8bit/val/t/0_leftImg8bit.png', (1024, 512), MAXSQUARE).copy())
        .permute(2, 0, 1)[None]
        .float()
    )
    with torch.no_grad():
        both = [probabilities(model.module, x, (512, 1024)) for x in (image, image.flip(3))]
    merged = (both[0] + both[1].flip(3)).argmax(1)
    assert sample.pred_sem_seg.data.shape[-2:] == sample.gt_sem_seg.data.shape[-2:] == (512, 1024)
    assert (sample.pred_sem_seg.data == merged).float().mean() > 0.999
    assert (both[0].argmax(1) != merged).any()


@pytest.mark.parametrize(
    ('name', 'size'), [(FADA, (512, 1024)), ('fada-distill_4xb2-20k_cityscapes-512x1024', (1024, 2048))]
)
def test_fada_is_tested_at_three_scales_and_mirrored(name, size):
    cfg = load(name)
    views = DATASETS.build({**cfg.test_dataloader.dataset, 'pipeline': cfg.tta_pipeline})[0]
    found = sorted((*x.shape[1:], s.flip) for x, s in zip(views['inputs'], views['data_samples'], strict=True))
    theirs = [(int(size[0] * scale), int(size[1] * scale), flip) for scale in (0.7, 1.0, 1.3) for flip in (False, True)]
    np.testing.assert_allclose(found, theirs, atol=1)  # mmcv rounds where they cut
    assert {s.ori_shape for s in views['data_samples']} == {(1024, 2048)}


def test_fadas_source_is_drawn_by_classes_and_maxsquares_is_not():
    for name, kind in (
        (SOURCE_FADA, 'ClassBalancedSampler'),
        (FADA, 'ClassBalancedSampler'),
        (MAXSQUARE, 'InfiniteSampler'),
    ):
        loader = load(name).train_dataloader
        loader.update(num_workers=0, persistent_workers=False)
        assert type(Runner.build_dataloader(loader, seed=0).sampler).__name__ == kind
    assert Path('data/gta5/class_pixels.json').exists()
