"""Predictions as PNG files and reports: every image and every test has files of its own."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip('mmseg')
from mmengine.dataset import ConcatDataset as MMConcatDataset
from mmengine.evaluator import Evaluator
from mmengine.registry import init_default_scope
from mmseg.datasets import CityscapesDataset

from mmseg_stylenorm.datasets import MultiDomainDataset
from mmseg_stylenorm.datasets.domains import image_folder, image_folders
from mmseg_stylenorm.evaluation import DomainIoUMetric, ReportHook
from mmseg_stylenorm.evaluation.predictions import SavePredictions, prediction_file, save_prediction


@pytest.fixture(autouse=True)
def _scope():
    init_default_scope('mmseg')


def street(root, folder, **options) -> CityscapesDataset:
    prefix = {'img_path': f'{folder}/images', 'seg_map_path': f'{folder}/labels'}
    return CityscapesDataset(data_root=str(root), data_prefix=prefix, lazy_init=True, **options)


def sample(path, **extra) -> dict:
    prediction = torch.full((1, 2, 3), hash(str(path)) % 19)
    return {'pred_sem_seg': {'data': prediction}, 'img_path': str(path), **extra}


@pytest.mark.parametrize(
    ('image', 'folder', 'expected'),
    [
        ('/data/city/val/ulm/a.jpg', '/data/city/val', 'ulm/a.png'),
        ('/data/city/val/ulm/a.png', '/data/city/val/', 'ulm/a.png'),
        ('/data/city/val/../val/ulm/a.png', '/data/city/val', 'ulm/a.png'),
        ('/data/other/a.png', '/data/city/val', 'data/other/a.png'),
        ('/data/other/a.jpg', None, 'data/other/a.jpg.png'),
        ('/data/city/validation/a.jpg', '/data/city/val', 'data/city/validation/a.jpg.png'),
    ],
)
def test_a_prediction_keeps_the_folders_of_its_image(image, folder, expected):
    assert prediction_file(image, 'town', folder) == Path('town', expected)


def test_relative_and_absolute_paths_of_an_image_are_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert prediction_file('data/x/a.png', '', str(tmp_path / 'data')) == prediction_file('data/x/a.png', '', 'data')


def test_predictions_of_a_class_less_by_zero_are_written_as_the_label_files_are(tmp_path):
    one = sample('/x/a.png', reduce_zero_label=True)
    file = save_prediction(one, str(tmp_path), {'': '/x'})
    np.testing.assert_array_equal(np.asarray(Image.open(file)), one['pred_sem_seg']['data'][0] + 1)


@pytest.mark.parametrize('known', [True, False])
def test_no_two_images_share_a_file(known, tmp_path):
    paths = [f'/d/{town}/{k}.{suffix}' for town in ('a', 'b/c') for k in range(2) for suffix in ('png', 'jpg')]
    paths = paths[::2] if known else paths
    metric = SavePredictions(str(tmp_path))
    metric.dataset_meta = {'image_folders': {'': '/d'}} if known else None
    metric.process(None, [sample(path) for path in paths])
    assert metric.evaluate(len(paths)) == {}
    assert len([*tmp_path.rglob('*.png')]) == len(paths)


def test_the_folder_of_images_is_known_through_wrappers(tmp_path):
    a, b = street(tmp_path, 'a'), street(tmp_path, 'b')
    assert image_folder(a) == f'{tmp_path}/a/images'
    assert image_folder(MMConcatDataset([a, b], lazy_init=True)) == str(tmp_path)
    assert (
        image_folder(SimpleNamespace(datasets=[SimpleNamespace(dataset=a), street(tmp_path, 'a')]))
        == f'{tmp_path}/a/images'
    )
    assert image_folder(SimpleNamespace()) is None


def test_the_folder_is_unknown_where_suffixes_differ(tmp_path):
    assert image_folder(street(tmp_path, 'a', img_suffix='')) is None
    two = [street(tmp_path, 'a'), street(tmp_path, 'a', img_suffix='.jpg')]
    assert image_folder(MMConcatDataset(two, lazy_init=True)) is None


def fake_runner(dataset, metrics, log_dir) -> SimpleNamespace:
    loop = SimpleNamespace(evaluator=Evaluator(metrics), dataloader=SimpleNamespace(dataset=dataset))
    loop.evaluator.dataset_meta = dataset.metainfo
    return SimpleNamespace(test_loop=loop, log_dir=str(log_dir))


def test_metrics_learn_where_the_images_of_foreign_data_sets_are(tmp_path):
    runner = fake_runner(street(tmp_path, 'a'), [SavePredictions(str(tmp_path / 'out'))], tmp_path)
    ReportHook().before_test(runner)
    runner.test_loop.evaluator.process([sample(tmp_path / 'a/images/ulm/x.png')])
    assert (tmp_path / 'out/ulm/x.png').is_file()
    assert runner.test_loop.evaluator.dataset_meta['classes'] == CityscapesDataset.METAINFO['classes']


def test_the_domains_of_a_data_set_have_a_folder_each(tmp_path):
    parts = {'a': street(tmp_path, 'a'), 'b': street(tmp_path, 'b'), 'c': street(tmp_path, 'c', img_suffix='')}
    for part in parts.values():
        part._fully_initialized = True
        part.data_list = part.data_address = np.zeros(1)
    dataset = MultiDomainDataset(parts)
    expected = {name: f'{tmp_path}/{name}/images' for name in 'ab'}
    assert dataset.metainfo['image_folders'] == image_folders(dataset) == expected


def test_every_test_has_a_report_of_its_own(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr('mmseg_stylenorm.evaluation.metric.write_report', lambda folder, report: written.append(folder))
    metric, hook = DomainIoUMetric(), ReportHook()
    label = {'gt_sem_seg': {'data': torch.zeros(1, 2, 3)}}
    for run in ('first', 'second'):
        runner = fake_runner(street(tmp_path, 'a'), [metric], tmp_path / run)
        hook.before_test(runner)
        runner.test_loop.evaluator.process([sample(tmp_path / 'x.png', **label)])
        runner.test_loop.evaluator.evaluate(1)
        hook.after_test(runner)
    assert metric.report_dir is None
    assert written == [tmp_path / 'first', tmp_path / 'second']


def test_a_report_folder_that_was_asked_for_is_used(tmp_path):
    metric, hook = DomainIoUMetric(report_dir=str(tmp_path / 'mine')), ReportHook()
    runner = fake_runner(street(tmp_path, 'a'), [metric], tmp_path / 'run')
    hook.before_test(runner)
    hook.after_test(runner)
    assert metric.report_dir == str(tmp_path / 'mine')
