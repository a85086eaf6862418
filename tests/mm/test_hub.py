"""mmengine finds our configs by `mmseg_stylenorm::NAME`, in the source tree as in a wheel, and never calls pip."""

from pathlib import Path

import pytest

pytest.importorskip('mmseg')
import mmengine.hub.hub
import yaml
from mmengine.config import Config
from mmengine.hub import get_config, get_model
from mmengine.infer.infer import BaseInferencer
from mmengine.registry import DATASETS, DefaultScope, init_default_scope
from mmengine.utils import package_utils

from mmseg_stylenorm.datasets import GTA5Dataset, MultiDomainDataset
from mmseg_stylenorm.evaluation import DomainIoUMetric
from mmseg_stylenorm.registry import SCOPE
from mmseg_stylenorm.segmentors import StyleNormEncoderDecoder
from timm_stylenorm.runner.configs import config_root, list_configs

ROOT = Path(__file__).parents[2]
ISW = 'quickstart/deeplabv3plus_r18-small_isw_1xb8-240_toy-streets.py'
ONE_EACH = [next(name for name in list_configs() if name.startswith(kind)) for kind in ('classif', 'quick', 'segm')]


@pytest.fixture(autouse=True)
def _no_pip(monkeypatch):
    def refuse(command):
        raise AssertionError(f'mmengine ran {command}')

    monkeypatch.setattr(package_utils, 'call_command', refuse)


def test_the_model_index_lists_every_config_and_nothing_else():
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text())
    models = [m for part in index['Import'] for m in yaml.safe_load((ROOT / part).read_text())['Models']]
    assert [m['Config'] for m in models] == [f'configs/{name}' for name in list_configs()]
    assert [m['Name'] for m in models] == [Path(name).stem for name in list_configs()]


def test_the_folder_that_mmengine_reads_shows_the_files_of_the_source_tree():
    for name in ('configs', 'tools', 'model-index.yml'):
        assert (ROOT / 'mmseg_stylenorm/.mim' / name).resolve() == ROOT / name


@pytest.mark.parametrize('name', [*ONE_EACH, '_base_/datasets/cityscapes_c.py'])
def test_the_hub_reads_a_config(name):
    assert get_config(f'mmseg_stylenorm::{name}').to_dict() == Config.fromfile(config_root() / name).to_dict()


def test_a_config_that_does_not_exist_is_refused():
    with pytest.raises(FileNotFoundError, match='nothing'):
        get_config('mmseg_stylenorm::quickstart/nothing.py')


def test_the_hub_builds_a_model():
    assert isinstance(get_model(f'mmseg_stylenorm::{ISW}'), StyleNormEncoderDecoder)


def test_mmengine_lists_our_models_by_name():
    assert Path(ISW).stem in BaseInferencer.list_models('mmseg_stylenorm', '.*isw.*')


@pytest.mark.parametrize('scope', ['mmseg', SCOPE])
def test_a_config_inherits_from_ours_and_takes_over_parts_of_it(scope, tmp_path):
    (tmp_path / 'mine.py').write_text(f"""
_base_ = ['mmseg_stylenorm::{ISW}', 'mmseg_stylenorm::_base_/datasets/cityscapes_c.py'][:1]
domains = dict(seen=_base_.seen_dataset, unseen=_base_.val_dataloader.dataset)
test_dataloader = dict(
    dataset=dict(_delete_=True, type='MultiDomainDataset', domains=domains, pipeline=_base_.test_pipeline)
)
""")
    cfg = Config.fromfile(tmp_path / 'mine.py')
    assert cfg.model.style.type == 'isw'
    for part in cfg.test_dataloader.dataset.domains.values():
        part.lazy_init = True
    with DefaultScope.overwrite_default_scope(scope):
        init_default_scope(scope)
        seen = DATASETS.build(cfg.test_dataloader.dataset.domains.seen)
    assert isinstance(seen, GTA5Dataset)
    assert cfg.test_dataloader.dataset.domains.seen._scope_ == SCOPE


def test_the_marks_of_a_scope_are_no_names_of_domains():
    with pytest.raises(ValueError, match='no domain to use'):
        MultiDomainDataset({'_scope_': SCOPE})
    metric = DomainIoUMetric(
        means={'m': ['a'], '_scope_': SCOPE}, pools={'_scope_': SCOPE}, subsets={'a': ['mIoU16'], '_scope_': SCOPE}
    )
    metric.dataset_meta = {'known_domains': ['a'], 'classes': ()}
    assert (metric.means, metric.pools, metric.subsets) == ({'m': ['a']}, {}, {'a': ['mIoU16']})


def test_our_scope_holds_what_mmseg_holds():
    with DefaultScope.overwrite_default_scope(SCOPE), DATASETS.switch_scope_and_registry(None) as registry:
        assert registry.scope == SCOPE
        assert {registry.get(name).__name__ for name in ('CityscapesDataset', 'GTA5Dataset')} == {
            'CityscapesDataset', 'GTA5Dataset'
        }  # fmt: skip


def test_pip_would_be_noticed():
    with pytest.raises(AssertionError, match='mmengine ran'):
        mmengine.hub.hub.install_package('no-such-package-of-ours')
