"""mmseg's own inference functions and tools, unmodified, with our configs, data sets and metrics."""

import copy
import inspect
import os
import runpy
import shutil
import sys
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip('mmseg')
import mmseg
from mmcv.transforms import LoadImageFromFile
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.visualization import Visualizer
from mmseg.apis import MMSegInferencer, inference_model, init_model
from mmseg.registry import DATASETS, MODELS, TRANSFORMS
from mmseg.visualization import SegLocalVisualizer
from test_configs import ADAPTING, DATA
from test_uda_configs import write_pictures

from mmseg_stylenorm.datasets import GTA5Dataset, MultiDomainDataset
from timm_stylenorm.runner.configs import config_root, list_configs

SEGMENTATION = [name for name in list_configs() if not name.startswith('classification/')]
# the configs of most methods have the pipelines of their baseline; these are tested by default
PIPELINES = [name for name in SEGMENTATION if name in DATA or ADAPTING.search(name)]
QUICK = 'quickstart/deeplabv3plus_r18-small_1xb8-240_toy-streets.py'
TOOLS = Path(mmseg.__file__).parent / '.mim/tools'
LABELS = ['LoadTrainIds', 'LoadSoftLabels']
IN_PROCESS = [f'test_dataloader.{key}' for key in ('num_workers=0', 'persistent_workers=False')]


@pytest.fixture(autouse=True)
def _mmseg_scope(monkeypatch):
    init_default_scope('mmseg')
    monkeypatch.setenv('MPLBACKEND', 'Agg')
    for kind in (Visualizer, SegLocalVisualizer):  # one process, several runs: each makes a visualizer of its own
        monkeypatch.setattr(kind, '_instance_dict', OrderedDict())


@pytest.fixture(scope='module')
def toy(tmp_path_factory):
    """Pictures of both toy domains, with files of one name in two towns; a config of both domains; a checkpoint."""
    root = tmp_path_factory.mktemp('toy')
    write_pictures(root / 'data/toy_streets')
    streets = root / 'data/toy_streets'
    (streets / 'gta5/splits/val.txt').write_text('0\n1\n')
    for folder in ('leftImg8bit/val', 'gtFine/val'):
        (streets / f'cityscapes/{folder}/u').mkdir()
        for file in (streets / f'cityscapes/{folder}/t').iterdir():
            (streets / f'cityscapes/{folder}/u/{file.name}').write_bytes(file.read_bytes())
    bases = [f'mmseg_stylenorm::{QUICK}']
    (root / 'domains.py').write_text(f"""
_base_ = {bases}
seen, unseen = _base_.seen_dataset, _base_.test_dataloader.dataset
test_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='MultiDomainDataset',
        domains=dict(seen=seen, unseen=unseen),
        pipeline=_base_.test_pipeline,
    )
)
test_evaluator = dict(_delete_=True, type='DomainIoUMetric')
""")
    (root / 'styled.py').write_text(f"""
_base_ = {bases}
model = dict(type='StyleNormEncoderDecoder', style=dict(type='snr', sites=('stage1', 'stage2')))
""")
    init_default_scope('mmseg')
    for config, file in ((config_root() / QUICK, 'net.pth'), (root / 'styled.py', 'styled.pth')):
        model = MODELS.build(Config.fromfile(config).model)
        torch.save({'meta': {}, 'state_dict': model.state_dict()}, root / file)
    return root


class Shown(torch.nn.Module):
    """A network that answers with what it is given."""

    dataset_meta = {'classes': ['a'], 'palette': [[0, 0, 0]]}

    def __init__(self, cfg):
        super().__init__()
        self.cfg = cfg

    def test_step(self, data):
        return [*zip(data['inputs'], data['data_samples'], strict=True)]


@pytest.fixture(scope='module')
def image(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp('image') / 'street.png'
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 64, 3), np.uint8)).save(path)
    return str(path)


QUIET = {'show_progress': False} if 'show_progress' in inspect.signature(MMSegInferencer).parameters else {}


@pytest.mark.parametrize(
    'name', [pytest.param(name, marks=() if name in PIPELINES else pytest.mark.slow) for name in SEGMENTATION]
)
@pytest.mark.some(10)
def test_pipelines_of_every_config_take_images_without_labels_and_augment(name, image, monkeypatch):
    cfg = Config.fromfile(config_root() / name)
    assert cfg.tta_model.type == 'SegTTAModel'
    assert [step.type for step in cfg.tta_pipeline].index('TestTimeAug') == len(cfg.tta_pipeline) - 1
    array = np.asarray(Image.open(image))
    for picture in (image, array):
        ((shown, sample),) = inference_model(Shown(copy.deepcopy(cfg)), [picture])
        assert shown.dtype == torch.uint8
        assert sample.ori_shape == (32, 64)
        assert 'gt_sem_seg' not in sample
    monkeypatch.setattr(MMSegInferencer, '_init_model', lambda self, cfg, *_: Shown(cfg))
    inferencer = MMSegInferencer(cfg, device='cpu', **QUIET)
    (batch,) = inferencer.preprocess([image, array], batch_size=2)
    assert [sample.ori_shape for sample in batch['data_samples']] == [(32, 64)] * 2


@pytest.mark.parametrize('kind', ['single', 'domains'])
def test_mmsegs_functions_segment_an_image(kind, toy, image):
    cfg = Config.fromfile(toy / 'domains.py' if kind == 'domains' else config_root() / QUICK)
    model = init_model(copy.deepcopy(cfg), str(toy / 'net.pth'), device='cpu')
    expected = inference_model(model, image).pred_sem_seg.data[0]
    assert expected.shape == (32, 64)
    inferencer = MMSegInferencer(cfg, str(toy / 'net.pth'), device='cpu', **QUIET)
    result = inferencer(image, return_vis=True)
    np.testing.assert_array_equal(result['predictions'], expected)
    assert result['visualization'].shape == (32, 64, 3)


@pytest.mark.parametrize('kind', LABELS)
def test_an_image_of_a_data_set_without_labels_is_an_error(kind, toy):
    prefix = {'img_path': 'gta5/images'}
    steps = [{'type': 'LoadImageFromFile'}, {'type': kind}]
    dataset = GTA5Dataset(data_root=str(toy / 'data/toy_streets'), data_prefix=prefix, pipeline=steps)
    with pytest.raises(ValueError, match=r'images/0\.png has no label: .*data_prefix\.seg_map_path'):
        dataset[0]


@pytest.mark.parametrize('kind', LABELS)
def test_an_image_of_no_data_set_needs_no_label(kind, image):
    loaded = TRANSFORMS.build({'type': kind})(LoadImageFromFile()({'img_path': image}))
    assert 'gt_seg_map' not in loaded
    pack = {'LoadTrainIds': 'PackSegInputs', 'LoadSoftLabels': 'PackSoftLabels'}[kind]
    packed = TRANSFORMS.build({'type': pack})(loaded)
    assert not {'gt_sem_seg', 'gt_soft'} & {*packed['data_samples'].keys()}


def test_a_corruption_takes_an_image_of_no_data_set(image):
    pytest.importorskip('imagecorruptions')
    corrupt = TRANSFORMS.build({'type': 'ImageCorruption', 'name': 'fog', 'severity': 3})
    first, again = (corrupt(LoadImageFromFile()({'img_path': image}))['img'] for _ in range(2))
    np.testing.assert_array_equal(first, again)


def run_tool(name, *argv, monkeypatch):
    """One of mmseg's scripts, as from a shell, in this process."""
    monkeypatch.setattr(sys, 'argv', [name, *map(str, argv)])
    monkeypatch.setitem(os.environ, 'LOCAL_RANK', '0')
    runpy.run_path(str(TOOLS / name), run_name='__main__')


def test_mmsegs_test_script_measures_domains_and_writes_predictions(toy, tmp_path, monkeypatch, unpainted):
    monkeypatch.chdir(toy)
    line = ['domains.py', 'net.pth', '--work-dir', tmp_path / 'run', '--out', tmp_path / 'out']
    line += ['--show-dir', tmp_path / 'shown', '--cfg-options', *IN_PROCESS]
    line += ['default_hooks.visualization.interval=1']  # mmseg 1.2.2 draws but every 50th batch of a test, too
    run_tool('test.py', *line, monkeypatch=monkeypatch)
    written = sorted(str(path.relative_to(tmp_path / 'out')) for path in (tmp_path / 'out').rglob('*.png'))
    city = [f'unseen/{town}/{k}_leftImg8bit.png' for town in 'tu' for k in range(2)]
    assert written == ['seen/0.png', 'seen/1.png', *city]
    shown = {path.stem.rpartition('_')[0] for path in (tmp_path / 'shown').rglob('*.png')}  # without steps
    assert shown == {f'test_{k}{end}' for k in range(2) for end in ('.png', '_leftImg8bit.png')}
    (log,) = (tmp_path / 'run').glob('*/*.log')
    assert (log.parent / 'domains.json').is_file()


@pytest.mark.parametrize('config', ['domains.py', config_root() / QUICK])
def test_mmsegs_test_script_augments(config, toy, tmp_path, monkeypatch):
    monkeypatch.chdir(toy)
    monkeypatch.setattr('mmseg_stylenorm.evaluation.metric.write_report', lambda *_: None)
    line = [config, 'net.pth', '--work-dir', tmp_path / 'run', '--out', tmp_path / 'out', '--tta']
    run_tool('test.py', *line, '--cfg-options', *IN_PROCESS, monkeypatch=monkeypatch)
    assert len([*(tmp_path / 'out').rglob('*.png')]) == (6 if config == 'domains.py' else 2)  # IoUMetric mixes towns up


@pytest.mark.slow
@pytest.mark.parametrize('config', ['domains.py', 'styled.py', config_root() / QUICK])
def test_mmsegs_other_tools_take_our_configs(config, toy, tmp_path, monkeypatch):
    net = 'styled.pth' if config == 'styled.py' else 'net.pth'
    large = shutil.copytree(toy, tmp_path / 'large')  # mmseg's benchmark.py fails where images are smaller than crops
    for path in large.rglob('*.png'):
        Image.open(path).resize((320, 160), Image.Resampling.NEAREST).save(path)
    monkeypatch.chdir(large)
    run_tool('test.py', config, net, '--work-dir', tmp_path, '--out', tmp_path / 'out', monkeypatch=monkeypatch)
    run_tool('analysis_tools/get_flops.py', config, '--shape', 64, 128, monkeypatch=monkeypatch)
    run_tool('analysis_tools/benchmark.py', config, net, '--work-dir', tmp_path, monkeypatch=monkeypatch)
    browse = ['--output-dir', tmp_path / 'browsed', '--not-show']
    run_tool('analysis_tools/browse_dataset.py', config, *browse, monkeypatch=monkeypatch)
    assert len([*(tmp_path / 'browsed').iterdir()]) == 2
    dataset = 'test_dataloader.dataset'
    town = [f'{dataset}.data_prefix.img_path=leftImg8bit/val/t', f'{dataset}.data_prefix.seg_map_path=gtFine/val/t']
    folder, options = ('out/seen', [f'{dataset}.only=seen']) if config == 'domains.py' else ('out', town)
    line = [config, tmp_path / folder, tmp_path / 'matrix', '--cfg-options', *options]
    run_tool('analysis_tools/confusion_matrix.py', *line, monkeypatch=monkeypatch)
    assert (tmp_path / 'matrix/confusion_matrix.png').is_file()
    config = toy / config
    monkeypatch.chdir(tmp_path)
    run_tool('misc/print_config.py', config, '--graph', monkeypatch=monkeypatch)
    assert Config.fromfile('example.py').model.type == Config.fromfile(config).model.type


class TestOnePipelineForAllDomains:
    OWN = [{'type': 'LoadImageFromFile'}, {'type': 'LoadTrainIds'}, {'type': 'PackSegInputs'}]
    OTHER = [{'type': 'LoadImageFromFile'}, {'type': 'Resize', 'scale': (16, 8)}, {'type': 'PackSegInputs'}]
    VIEWS = [{'type': 'LoadImageFromFile'}, {'type': 'TestTimeAug', 'transforms': [[{'type': 'PackSegInputs'}]]}]

    @staticmethod
    def part(toy, **options):
        return {'type': 'GTA5Dataset', 'data_root': f'{toy}/data/toy_streets/gta5', **options}

    @staticmethod
    def shapes(dataset, first=(0, 2)):
        return [tuple(dataset[k]['inputs'].shape[1:]) for k in first]

    def test_it_replaces_those_of_the_domains(self, toy):
        domains = {'a': self.part(toy, pipeline=self.OWN), 'b': self.part(toy)}
        assert self.shapes(MultiDomainDataset(domains, pipeline=self.OTHER)) == [(8, 16)] * 2

    def test_a_domain_may_keep_its_own(self, toy):
        domains = {name: self.part(toy, pipeline=self.OWN) for name in 'ab'}
        dataset = DATASETS.build(
            dict(type='MultiDomainDataset', domains=domains, pipeline=self.OTHER, keep=['b'])
        )  # fmt: skip
        assert self.shapes(dataset) == [(8, 16), (32, 64)]
        with pytest.raises(ValueError, match="unknown domain 'c'"):
            MultiDomainDataset(domains, pipeline=self.OTHER, keep=['c'])

    def test_test_time_augmentation_is_for_all(self, toy):
        domains = {name: self.part(toy, pipeline=self.OWN) for name in 'ab'}
        dataset = MultiDomainDataset(domains, pipeline=self.VIEWS, keep=['b'])
        assert [len(dataset[k]['inputs']) for k in (0, 2)] == [1, 1]
        assert dataset[2]['domain'] == ['b']

    def test_data_sets_and_wrappers_that_are_passed_in_stay_as_they_are(self, toy):
        plain = DATASETS.build(self.part(toy, pipeline=self.OWN))
        twice = DATASETS.build({'type': 'RepeatDataset', 'times': 2, 'dataset': self.part(toy, pipeline=self.OWN)})
        dataset = MultiDomainDataset({'a': plain, 'b': twice}, pipeline=self.OTHER)
        assert self.shapes(dataset, (0, 2, 5)) == [(8, 16)] * 3
        assert plain[0]['inputs'].shape[1:] == twice[3]['inputs'].shape[1:] == (32, 64)

    def test_corruptions_stay(self, toy):
        pytest.importorskip('imagecorruptions')
        fog = [self.OWN[0], {'type': 'ImageCorruption', 'name': 'fog', 'severity': 5}, *self.OWN[1:]]
        domains = {'clean': self.part(toy, pipeline=self.OWN), 'fog': self.part(toy, pipeline=fog)}
        before, after, views = (MultiDomainDataset(domains, pipeline=p) for p in (None, self.OWN, self.VIEWS))
        for k in (0, 2):
            torch.testing.assert_close(after[k]['inputs'], before[k]['inputs'], rtol=0, atol=0)
            torch.testing.assert_close(views[k]['inputs'][0], before[k]['inputs'], rtol=0, atol=0)
        assert not after[0]['inputs'].equal(after[2]['inputs'])

    def test_the_log_names_domains_that_lose_their_own(self, toy, monkeypatch):
        said = []
        monkeypatch.setattr('mmseg_stylenorm.datasets.domains.print_log', lambda text, *_: said.append(text))
        domains = {
            'a': self.part(toy, pipeline=self.OWN),
            'b': self.part(toy, pipeline=self.OTHER),
            'c': self.part(toy),
        }
        MultiDomainDataset(domains, pipeline=self.OWN)
        MultiDomainDataset(domains, pipeline=self.VIEWS)
        MultiDomainDataset(domains, pipeline=self.OWN, keep=['b'])
        assert said == ["MultiDomainDataset: pipeline replaces the own transforms of b; keep=['b'] keeps them"]

    def test_a_data_set_without_a_pipeline_is_refused(self):
        class Foreign:
            metainfo = {'classes': ('a',)}

        with pytest.raises(TypeError, match='a Foreign has no pipeline to replace'):
            MultiDomainDataset({'a': Foreign()}, pipeline=self.OWN)

    def test_mapillary_keeps_its_square_in_the_shipped_configs(self):
        cfg = Config.fromfile(config_root() / '_base_/datasets/gtav2domains_768x768.py').test_dataloader.dataset
        different = [name for name, part in cfg.domains.items() if part.pipeline != cfg.pipeline]
        assert different == cfg.keep == ['mapillary']
