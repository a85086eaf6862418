"""The data check of the tools, over the loaders of every shipped config: data absent, and data present."""

import functools
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

pytest.importorskip('mmseg')
import cli
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope
from test_classification_data import write_idx, write_images

import mmseg_stylenorm  # noqa: F401 (finds mmseg's base configs)
import timm_stylenorm.classification
from mmseg_stylenorm.datasets import LAYOUTS
from mmseg_stylenorm.uda.pseudo_labels import write_soft
from timm_stylenorm.runner.configs import config_root, list_configs

LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
DATA = ['_base_/datasets/cityscapes_c.py', '_base_/datasets/synthia2domains_768x768.py']
DATA += ['_base_/datasets/gtav2domains_512x512.py']  # for tools/test.py --data
NAMES = ('000', '001')


@functools.cache
def loaders(name):
    """The loaders of a config; image sets that lie at an absolute place are looked for below data/."""
    cfg = Config.fromfile(config_root() / name)
    found = {key: cfg[key] for key in LOADERS if cfg.get(key)}
    for loader in found.values():
        for part in cli.data_parts(loader.dataset):
            if 'root' in part:
                part.root = f'data/{Path(part.root).name}'
            part.pop('complete', None)  # the data are two pictures
    return found


def write_street(part):
    """Two pairs in a layout, or with the folders that the config names."""
    layout = {'GTA5Dataset': 'gta5', 'CityscapesDataset': 'cityscapes'}.get(part.type, part.get('layout'))
    row = LAYOUTS[layout]
    split = part.get('split') or next(iter(row.pairs))
    folders = {'img_path': row.images.format(split=split), 'seg_map_path': row.labels.format(split=split)}
    folders = dict(part.get('data_prefix') or folders)
    suffixes = {'img_path': row.suffixes[0], 'seg_map_path': part.get('seg_map_suffix') or row.suffixes[1]}
    for key, folder in folders.items():
        for name in NAMES:
            file = Path(part.data_root, folder, f'{name}{suffixes[key]}')
            file.parent.mkdir(parents=True, exist_ok=True)
            if file.suffix == '.npz':
                write_soft(file, torch.rand(19, 8, 16).softmax(0))
            else:
                cv2.imwrite(str(file), np.full((32, 64, 3) if key == 'img_path' else (32, 64), 3, np.uint8))
    if part.get('ann_file'):
        file = Path(part.data_root, part.ann_file)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(''.join(f'{name}\n' for name in NAMES))


def write_data(part):
    """What a data set needs to be built and to give its first sample; False for one that downloads its data."""
    root = part.get('root')
    if part.type == 'FashionMNIST':
        for prefix in ('train', 't10k'):
            write_idx(Path(root, f'{prefix}-images-idx3-ubyte'), np.zeros((2, 28, 28), np.uint8))
            write_idx(Path(root, f'{prefix}-labels-idx1-ubyte'), np.zeros(2, np.uint8))
    elif part.type == 'DomainFolders':
        for domain in ('art_painting', 'cartoon', 'photo', 'sketch'):
            if not Path(root, domain).exists():
                write_images(Path(root, domain, 'dog'), count=1)
    elif part.type == 'TimmDataset':
        if part.get('download'):
            return False
        if not Path(root, part.split).exists():
            write_images(Path(root, part.split, 'dog'), count=1)
    else:
        write_street(part)
    return True


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp('data_sets')


@pytest.fixture(scope='module')
def built():
    """The data sets that were built, by their configs: many configs share them."""
    return set()


@pytest.mark.parametrize('name', [*list_configs(), *DATA])
@pytest.mark.some(16)
def test_the_check_names_absent_data_and_lets_present_data_pass(name, tmp_path, folder, built, monkeypatch):
    init_default_scope('mmseg')
    monkeypatch.setattr(torch.hub, 'download_url_to_file', None)
    for key, loader in loaders(name).items():
        parts = list(cli.data_parts(loader.dataset))
        assert parts, key
        monkeypatch.chdir(tmp_path)
        if not all(part.get('download') for part in parts):
            with pytest.raises(FileNotFoundError, match=r"'data/.*', which does not exist.* To get it: (?!see)"):
                cli.check_data(loader, name)
        monkeypatch.chdir(folder)
        here = [write_data(part) for part in parts]
        cli.check_data(loader, name)
        key = json.dumps(loader.dataset, sort_keys=True, default=str)
        if all(here) and key not in built and 'ImageCorruption' not in key:
            built.add(key)
            dataset = DATASETS.build(loader.dataset)
            assert len(dataset) > 0
            assert 'inputs' in dataset[0]


def test_a_check_reads_keys_as_the_type_of_the_data_set_means_them():
    absent = {'root': 'nowhere/pacs', 'domains': ['photo'], 'dataset': 'x', 'source': 'y', 'datasets': 3}
    for kind in ('DomainFolders', 'PACS', 'somebody.Elses', timm_stylenorm.classification.DomainFolders):
        assert list(cli.data_parts({**absent, 'type': kind})) == [{**absent, 'type': kind}]
    inner = [{'type': 'PACS', 'root': str(k)} for k in range(3)]
    nested = {
        'type': 'mmengine.RepeatDataset',
        'dataset': {
            'type': 'UDADataset',
            'source': {'type': 'mmseg.ConcatDataset', 'datasets': inner[:2]},
            'target': {'type': 'MultiDomainDataset', 'domains': {'a': inner[2], 'b': inner[0]}, 'only': 'a'},
        },
    }
    assert list(cli.data_parts(nested)) == inner
    for kind in ('MultiDomainDataset', 'DomainConcatDataset', 'JoinedDataset'):
        shown = {'type': kind, 'domains': {'a': inner[0], 'b': inner[1], '_scope_': 'mmseg_stylenorm'}}
        assert list(cli.data_parts(shown)) == inner[:2]
        assert list(cli.data_parts({**shown, 'only': ['b']})) == inner[1:2]
    assert list(cli.data_parts({'type': 'JoinedDataset', 'datasets': inner})) == inner


def test_data_in_a_store_are_not_looked_for_on_the_disk():
    cli.check_data({'dataset': {'type': 'BaseDataset', 'data_root': 's3://bucket/images'}}, 'c.py')
