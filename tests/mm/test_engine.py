"""The glue to mmengine: base configs, style losses, mixed precision on a CPU, and which checkpoints are refused."""

import contextlib
import os
import pickle
import types
from pathlib import Path

import pytest
import torch
from since import OTHER_CLASSES
from torch import nn

pytest.importorskip('mmengine')
from mmengine.config import Config
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseDataPreprocessor, BaseModel, ImgDataPreprocessor
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import OPTIM_WRAPPERS
from mmengine.runner import checkpoint as theirs
from mmengine.runner.checkpoint import CheckpointLoader

from timm_stylenorm import add_style
from timm_stylenorm.runner import checkpoint, distributed, model, optim
from timm_stylenorm.runner.configs import config_root, find_config, list_configs
from timm_stylenorm.runner.host import image_format

SHIPPED = 'mmseg::deeplabv3plus/deeplabv3plus_r50-d8_4xb2-40k_cityscapes-512x1024.py'


class TouchFile:
    """A pickle of this runs code when it is read without care."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


class Model(model.StyleLossMixin, BaseModel):
    """Three losses, of which one has no 'loss' in its name."""

    def forward(self, inputs=None, data_samples=None, mode='loss'):
        return {'loss_ce': torch.tensor(2.0), 'acc': torch.tensor(50.0), 'style.snr.stage1': torch.tensor(0.5)}


def load(path):
    return CheckpointLoader.load_checkpoint(str(path), 'cpu')


def small(width=8):
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.Conv2d(width, 4, 3))


def test_configs_inherit_from_mmseg(tmp_path):
    pytest.importorskip('mmseg')
    (tmp_path / 'c.py').write_text(f"_base_ = ['{SHIPPED}']\n")
    assert Config.fromfile(tmp_path / 'c.py').model.backbone.depth == 50


def test_style_losses_enter_the_total_and_accuracies_do_not():
    total, log = Model().parse_losses(Model()())
    assert total.item() == 2.5
    assert log['loss'].item() == 2.5
    assert log['style.snr.stage1'].item() == 0.5


def test_amp_on_a_cpu_runs_in_bfloat16_and_trains():
    cfg = Config({'optim_wrapper': {'type': 'OptimWrapper', 'optimizer': {'type': 'SGD', 'lr': 0.1}}})
    optim.enable_amp(cfg)
    net = small()
    before = net[0].weight.clone()
    kind = OPTIM_WRAPPERS.get(cfg.optim_wrapper.type)
    assert issubclass(kind, OptimWrapper)
    wrapper = optim.CPUAmpOptimWrapper(optimizer=torch.optim.SGD(net.parameters(), 0.1))
    with wrapper.optim_context(net):
        out = net(torch.randn(2, 3, 8, 8))
    assert out.dtype == torch.bfloat16
    wrapper.update_params(out.float().square().mean())
    assert not torch.equal(before, net[0].weight)


def test_amp_takes_a_config_made_for_a_gpu_to_a_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    wrapper = {'type': 'AmpOptimWrapper', 'loss_scale': 512.0, 'dtype': 'float16', 'accumulative_counts': 2}
    cfg = Config({'optim_wrapper': {**wrapper, 'optimizer': {'type': 'SGD', 'lr': 0.1}}})
    optim.enable_amp(cfg)
    built = build_optim_wrapper(small(), cfg.optim_wrapper)
    assert type(built) is optim.CPUAmpOptimWrapper
    assert built._accumulative_counts == 2


def test_amp_keeps_the_loss_scale_of_a_config_on_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    cfg = Config({'optim_wrapper': {'type': 'AmpOptimWrapper', 'loss_scale': 512.0}})
    optim.enable_amp(cfg)
    assert cfg.optim_wrapper == {'type': 'AmpOptimWrapper', 'loss_scale': 512.0}


def test_amp_refuses_a_wrapper_it_does_not_know():
    with pytest.raises(ValueError, match='ApexOptimWrapper'):
        optim.enable_amp(Config({'optim_wrapper': {'type': 'ApexOptimWrapper'}}))


def test_checkpoint_with_code_is_refused_and_not_run(tmp_path):
    torch.save({'state_dict': {}, 'extra': TouchFile(tmp_path / 'ran')}, tmp_path / 'evil.pth')
    with pytest.raises(ValueError, match=r'refused to load .*evil\.pth.*mkdir.*If you trust'):
        load(tmp_path / 'evil.pth')
    assert not (tmp_path / 'ran').exists()


@pytest.mark.parametrize('scheme', ['s3', 'open-mmlab'])
def test_checkpoint_with_code_is_refused_from_stores_and_model_zoos(tmp_path, monkeypatch, scheme):
    torch.save({'state_dict': {}, 'extra': TouchFile(tmp_path / 'ran')}, tmp_path / 'evil.pth')
    store = types.SimpleNamespace(get=lambda name: (tmp_path / 'evil.pth').read_bytes())
    monkeypatch.setattr(theirs, 'get_file_backend', lambda *args, **kwargs: store)
    monkeypatch.setattr(theirs, 'get_external_models', lambda: {'evil': 'evil.pth'})
    monkeypatch.setattr(theirs, '_get_mmengine_home', lambda: str(tmp_path))
    with pytest.raises((ValueError, pickle.UnpicklingError), match='mkdir'):
        load(f'{scheme}://evil')
    assert not (tmp_path / 'ran').exists()


def test_getattr_in_a_checkpoint_reaches_log_buffers_only(tmp_path):
    class Sneak:
        def __reduce__(self):
            return getattr, (HistoryBuffer, '__init__')

    torch.save({'x': Sneak()}, tmp_path / 'sneak.pth')
    with pytest.raises(ValueError, match='refused'):
        load(tmp_path / 'sneak.pth')


@OTHER_CLASSES
def test_log_buffers_and_numpy_numbers_of_a_runner_load(tmp_path):
    import numpy as np

    log = HistoryBuffer([1.0, 2.0], [1, 1])
    torch.save({'log': log, 'eta': np.float64(3), 'array': np.arange(3)}, tmp_path / 'log.pth')
    loaded = load(tmp_path / 'log.pth')
    assert loaded['log'].mean() == 1.5
    assert loaded['eta'] == 3


@pytest.mark.parametrize('content', [b'no checkpoint', b''])
def test_damaged_checkpoint_is_called_damaged(tmp_path, content):
    (tmp_path / 'bad.pth').write_bytes(content)
    with pytest.raises(ValueError, match=r'cannot read .*bad\.pth'):
        load(tmp_path / 'bad.pth')


def test_missing_checkpoint_names_the_nearest(tmp_path):
    torch.save({}, tmp_path / 'iter_100.pth')
    with pytest.raises(FileNotFoundError, match=r"did you mean '.*iter_100\.pth'"):
        load(tmp_path / 'iter_10.pth')


def test_checkpoint_of_another_architecture_is_refused_with_both_names():
    other = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    with pytest.raises(ValueError, match=r'old\.pth.*another architecture than Sequential.*0\.weight'):
        checkpoint.check_fit(small(), other.state_dict(), 'old.pth', complete=False)


def test_other_width_is_refused_and_a_new_head_is_not():
    with pytest.raises(ValueError, match='of another shape'):
        checkpoint.check_fit(small(), small(16).state_dict(), 'wide.pth', complete=False)
    finetuned = small()
    finetuned[2] = nn.Conv2d(8, 7, 3)
    checkpoint.check_fit(finetuned, small().state_dict(), 'base.pth', complete=False)


def four(*widths):
    """Four weights, of which those with the width 2 are the same in all such models."""
    return nn.ModuleDict({name: nn.Linear(2, width) for name, width in zip('abcd', widths, strict=False)})


def test_half_of_the_weights_of_the_smaller_side_must_fit():
    model = four(2, 2, 2, 2)
    for enough in (four(2, 2, 3, 3), four(2), four(2, 3)):  # 2 of 4, 1 of 1, 1 of 2
        checkpoint.check_fit(model, enough.state_dict(), 'enough.pth', complete=False)
        checkpoint.check_fit(enough, model.state_dict(), 'enough.pth', complete=False)
    few = four(2, 3, 3, 3)
    for lacking in (few, four(2, 3, 3), nn.ModuleDict({'e': nn.Linear(2, 2)})):  # 1 of 4, 1 of 3, 0 of 1
        with pytest.raises(ValueError, match=r'few\.pth .* is of another architecture than ModuleDict'):
            checkpoint.check_fit(model, lacking.state_dict(), 'few.pth', complete=False)
    vectors = {name: value for name, value in model.state_dict().items() if value.ndim == 1}
    with pytest.raises(ValueError, match='another architecture'):
        checkpoint.check_fit(model, vectors, 'vectors.pth', complete=False)


def test_a_test_needs_every_tensor_and_passes_over_others():
    model = four(2, 2, 2, 2)
    checkpoint.check_fit(four(2, 2, 2), model.state_dict(), 'more.pth', complete=True)
    with pytest.raises(ValueError, match=r'missing.*d\.weight'):
        checkpoint.check_fit(model, four(2, 2, 2).state_dict(), 'less.pth', complete=True)
    with pytest.raises(ValueError, match=r'another shape.*d\.weight'):
        checkpoint.check_fit(model, four(2, 2, 2, 3).state_dict(), 'wide.pth', complete=True)


def test_plain_checkpoint_starts_a_styled_training_but_is_not_tested():
    styled = add_style(small(), 'snr', sites='0')
    plain = {'state_dict': small().state_dict()}
    checkpoint.check_fit(styled, plain, 'plain.pth', complete=False)
    with pytest.raises(ValueError, match=r'missing.*style\.snr'):
        checkpoint.check_fit(styled, plain, 'plain.pth', complete=True)
    with pytest.raises(ValueError, match=r'unknown to the model.*style\.snr'):
        checkpoint.check_fit(small(), styled.state_dict(), 'snr.pth', complete=True)


def test_configs_are_found_by_path_by_name_and_not_by_mistake(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = list_configs()
    assert any(name.startswith('quickstart/') for name in names)
    for name in names:
        assert find_config(name) == str(config_root() / name)
    assert find_config(f'configs/{names[0]}') == str(config_root() / names[0])
    assert find_config(Path(names[0]).stem) == str(config_root() / names[0])
    with pytest.raises(FileNotFoundError, match='did you mean'):
        find_config(names[0].replace('_', '-'))


def test_a_launcher_without_ranks_says_how_to_start(monkeypatch):
    if torch.cuda.is_available():
        pytest.skip('needs a machine without a GPU')
    monkeypatch.delenv('RANK', raising=False)
    with pytest.raises(ValueError, match=r'torch\.distributed\.run'):
        distributed.prepare_cpu_distributed(Config({'model': {}}), 'pytorch')


@pytest.mark.parametrize('turned', [True, False])
def test_the_format_of_images_is_what_their_preprocessor_does(turned):
    mean, std = [100.0, 110.0, 120.0], [50.0, 60.0, 70.0]
    image = torch.randint(0, 256, (3, 4, 4)).float()  # as mmcv loads it: blue, green, red
    for kind in kinds_of_preprocessors():
        preprocessor = kind(mean=mean, std=std, bgr_to_rgb=turned)
        shown = image_format(preprocessor)
        assert (shown.loads_bgr, shown.shows_rgb) == (True, turned)
        seen = preprocessor({'inputs': [image]}, False)['inputs']
        seen = seen[0] if isinstance(seen, list) else seen
        unit = (image.flip(0) if turned else image) / 255
        expected = (unit - shown.mean[:, None, None]) / shown.std[:, None, None]
        torch.testing.assert_close(seen.reshape(3, 4, 4), expected)


def kinds_of_preprocessors():
    yield ImgDataPreprocessor
    with contextlib.suppress(ImportError):
        from mmseg.models import SegDataPreProcessor

        yield SegDataPreProcessor


def test_images_that_nobody_normalises_are_bgr_in_bytes():
    for preprocessor in (BaseDataPreprocessor(), ImgDataPreprocessor()):
        shown = image_format(preprocessor)
        assert (shown.loads_bgr, shown.shows_rgb, shown.mean.tolist()) == (True, False, [0, 0, 0])
        torch.testing.assert_close(shown.std, torch.full((3,), 1 / 255))


def test_a_preprocessor_that_does_not_say_what_its_images_are_is_refused():
    class Foreign(BaseDataPreprocessor):
        pass

    for unknown in (Foreign(), nn.Identity(), None):
        with pytest.raises(TypeError, match=r'(Foreign|Identity|NoneType) does not say whether its images are RGB'):
            image_format(unknown)
