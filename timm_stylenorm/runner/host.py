"""What this package patches in mmengine, and what it uses of mmengine's private parts."""

import importlib.metadata
from dataclasses import dataclass
from typing import NamedTuple

import torch
from mmengine.logging import MessageHub
from mmengine.model import BaseDataPreprocessor
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from torch import Tensor
from torch.utils.data import DataLoader

from ..patches import Patch
from ..torch_host import BEFORE_2_6


def _is_installed(distribution: str) -> bool:
    try:
        importlib.metadata.distribution(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


CONFIG_PACKAGES = {'mmseg': 'mmseg', 'mmseg_stylenorm': 'mmseg_stylenorm'}  # the packages to import for these names

PATCHES = (
    Patch(
        what=('mmengine.config.utils.MODULE2PACKAGE[mmseg]',),
        why="`_base_ = 'mmseg::...'` asks for a distribution called mmsegmentation, and its maintained continuation is "
        'called otherwise',
        by='timm_stylenorm.runner.host.CONFIG_PACKAGES[mmseg]',
        needed=not _is_installed('mmsegmentation'),
        since='onedl-mmengine 0.10.8',
        until='onedl-mmengine 0.10.12',
    ),
    Patch(
        what=('mmengine.config.utils.MODULE2PACKAGE[mmseg_stylenorm]',),
        why="`_base_ = 'mmseg_stylenorm::...'` and `mmengine.hub` know packages by a table",
        by='timm_stylenorm.runner.host.CONFIG_PACKAGES[mmseg_stylenorm]',
        since='mmengine 0.10.3',
        until='onedl-mmengine 0.10.12',
    ),
    Patch(
        what=('mmengine.runner.checkpoint.CheckpointLoader._schemes[]',),
        why='files are read with `weights_only=False` where nothing else reads them',
        by='timm_stylenorm.runner.checkpoint.load_local',
        since='mmengine 0.10.3',
        until='onedl-mmengine 0.10.12',
    ),
    Patch(
        what=('mmengine.runner.checkpoint.load_url',),
        why="downloads, in which the schemes http, torchvision, open-mmlab and mmcls end, are read by torch's default",
        by='timm_stylenorm.runner.checkpoint.load_url',
        since='mmengine 0.10.3',
        until='onedl-mmengine 0.10.12',
    ),
    Patch(
        what=('mmengine.runner.checkpoint._safe_torch_load',),
        why="onedl's reader of pavi, s3, petrel and open-mmlab's files falls back to `weights_only=False`; that of "
        "OpenMMLab takes torch's default, which is safe as of torch 2.6",
        by='timm_stylenorm.runner.checkpoint.load_any',
        needed=_is_installed('onedl-mmengine'),
        since='onedl-mmengine 0.10.8',
        until='onedl-mmengine 0.10.12',
    ),
    Patch(
        what=('mmengine.runner.checkpoint.torch',),
        why="OpenMMLab's readers of these take torch's default, which runs any code before torch 2.6",
        by='timm_stylenorm.runner.checkpoint.safe_torch',
        needed=BEFORE_2_6 and not _is_installed('onedl-mmengine'),
        since='mmengine 0.10.3',
        until='mmengine 0.10.7',
    ),
    Patch(
        what=tuple(f'mmengine.runner{module}.save_checkpoint' for module in ('', '.checkpoint', '.runner')),
        why='checkpoints hold objects, and are written in place',
        by='timm_stylenorm.runner.saving.saving_whole',
        wraps=True,
        since='mmengine 0.10.3',
        until='onedl-mmengine 0.10.12',
    ),
    Patch(
        what=('mmengine.hooks.checkpoint_hook.open', 'mmengine.config.config.open'),
        why='`CheckpointHook` writes `last_checkpoint` in place, and a Runner its config, by which one tests',
        by='timm_stylenorm.runner.saving.open_whole',
        since='mmengine 0.10.3',
        until='onedl-mmengine 0.10.12',
    ),
    Patch(
        what=tuple(f'mmengine.fileio.LocalBackend.{name}' for name in ('put', 'put_text')),
        why='pictures and other files are written in place',
        by='timm_stylenorm.runner.saving.putting_whole',
        wraps=True,
        since='mmengine 0.10.3',
        until='onedl-mmengine 0.10.12',
    ),
    Patch(
        what=('mmengine.visualization.LocalVisBackend._dump',),
        why='where the disk is full, the error of a log ends a training without the name of a file',
        by='timm_stylenorm.runner.saving.naming_lines',
        wraps=True,
        since='mmengine 0.10.3',
        until='onedl-mmengine 0.10.12',
    ),
    Patch(
        what=(
            'mmengine.dataset.worker_init_fn',
            'mmengine.dataset.utils.worker_init_fn',
            'mmengine.runner.runner.default_worker_init_fn',
        ),
        why='workers may outlive a run that is killed',
        by='timm_stylenorm.workers.ending_with_parent',
        wraps=True,
        since='mmengine 0.10.3',
        until='onedl-mmengine 0.10.12',
    ),
    Patch(
        what=('mmengine.runner.Runner.dump_config',),
        why='a second run, also a test, replaces the config of a training that is at work',
        by='timm_stylenorm.runner.claiming.leaving_configs_of_others',
        wraps=True,
        since='mmengine 0.10.7',
        until='onedl-mmengine 0.10.12',
    ),
    Patch(
        what=('mmengine.runner.Runner.train',),
        why='two trainings in one work dir remove and resume from the checkpoints of each other',
        by='timm_stylenorm.runner.claiming.claiming',
        wraps=True,
        since='mmengine 0.10.3',
        until='onedl-mmengine 0.10.12',
    ),
    Patch(
        what=tuple(
            f'mmengine.hooks.CheckpointHook.{name}' for name in ('_save_checkpoint_with_step', '_save_best_checkpoint')
        ),
        why='old checkpoints are removed before the new one is complete',
        by='timm_stylenorm.runner.saving.removing_late',
        wraps=True,
        since='mmengine 0.10.3',
        until='onedl-mmengine 0.10.12',
    ),
    Patch(
        what=('mmengine.hooks.CheckpointHook.before_train',),
        why='what a killed run had still to remove would stay',
        by='timm_stylenorm.runner.saving.removing_what_a_kill_left',
        wraps=True,
        since='mmengine 0.10.3',
        until='onedl-mmengine 0.10.12',
    ),
    Patch(
        what=('mmengine.runner.Runner.load_or_resume',),
        why='`resume=True` takes `load_from` for the checkpoint to resume from, and trusts `last_checkpoint` blindly',
        by='timm_stylenorm.runner.latest.choosing',
        wraps=True,
        since='mmengine 0.10.3',
        until='onedl-mmengine 0.10.12',
    ),
)


class Start(NamedTuple):
    """What a Runner loads before it runs, and whether it goes on from there."""

    load_from: str | None
    resume: bool


def start_of(runner: Runner) -> Start:
    """What the config says, or what `set_start` has set."""
    return Start(runner._load_from, bool(runner._resume))


def set_start(runner: Runner, load_from: str | None, resume: bool) -> None:
    """Set what a Runner loads, before it has loaded."""
    runner._load_from, runner._resume = load_from, resume


def trains(runner: Runner) -> bool:
    """Whether `Runner.train` is running."""
    return runner._train_loop is not None and not isinstance(runner._train_loop, dict)


def has_loaded(runner: Runner) -> bool:
    """Whether `Runner.load_or_resume` has loaded."""
    return bool(runner._has_loaded)


def progress() -> tuple[float, int] | None:
    """Share of the training that is done, and the index of the batch in its epoch; None outside a Runner's training.

    The share counts finished epochs, or the iterations of a loop without epochs.
    """
    info = MessageHub.get_current_instance().runtime_info
    if info.get('loop_stage') != 'train':
        return None
    epoch, epochs, iteration, iterations = (info[key] for key in ('epoch', 'max_epochs', 'iter', 'max_iters'))
    if epochs <= 1:
        return iteration / iterations, iteration
    return epoch / epochs, iteration - epoch * (iterations // epochs)


def restart_workers(loader: DataLoader) -> None:
    """Let the next iterator start new workers, even if they are persistent."""
    loader._iterator = None


def clip_grad(wrapper: OptimWrapper) -> None:
    """Clip the gradients of a wrapper's parameters as its config says."""
    wrapper._clip_grad()


@dataclass(frozen=True)
class ImageFormat:
    """Which images a data preprocessor gets, and how it passes them on.

    Attributes:
        loads_bgr: Whether they arrive with the channels blue, green, red, as mmcv reads files.
        shows_rgb: Whether the network sees red, green, blue.
        mean: (C,), in the order of channels that the network sees; it sees (values in [0, 1] - mean) / std.
        std: See `mean`.
    """

    loads_bgr: bool
    shows_rgb: bool
    mean: Tensor
    std: Tensor


def image_format(preprocessor: BaseDataPreprocessor) -> ImageFormat:
    """The image format of a data preprocessor: of this package, mmengine, mmseg, mmdet or mmpretrain.

    OpenMMLab's preprocessors get what mmcv loads, BGR in [0, 255], and may reverse the order of the channels.

    Raises:
        TypeError: The preprocessor does not tell its image format.
    """
    known = getattr(preprocessor, 'image_format', None)
    if known is not None:
        return known()
    zero, byte = torch.zeros(3), torch.full((3,), 1 / 255)
    if type(preprocessor) is BaseDataPreprocessor:  # it only moves tensors to the device
        return ImageFormat(True, False, zero, byte)
    own = vars(preprocessor) if isinstance(preprocessor, BaseDataPreprocessor) else {}
    names = ('_channel_conversion', 'channel_conversion', 'to_rgb')  # mmengine and onedl's mmseg; mmseg; mmpretrain
    turned = next((own[name] for name in names if name in own), None)
    if turned is None or '_enable_normalize' not in own:
        raise TypeError(
            f'{type(preprocessor).__name__} does not say whether its images are RGB or BGR, nor how they are '
            'normalised: give it a method `image_format` that returns a timm_stylenorm.runner.host.ImageFormat'
        )
    if not own['_enable_normalize']:
        return ImageFormat(True, bool(turned), zero, byte)
    return ImageFormat(True, bool(turned), preprocessor.mean.flatten() / 255, preprocessor.std.flatten() / 255)
