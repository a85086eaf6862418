"""What both hosts share on top of mmengine: fixes of the host, CPU training, style losses, resume, checkpoints.

Import this module only where mmengine is installed; `timm_stylenorm` itself does not.
"""

import atexit
import contextlib
import gc
import importlib.metadata
import logging
import os
from collections.abc import Iterator
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.logging import print_log
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS
from torch import Tensor, nn

from ..gates import separate_gates
from ..tasks import recipe_of
from .adabn import AdaBNHook
from .checkpoint import CheckpointGuardHook, check_fit, install_safe_loaders
from .isw import ISWHook
from .latest import install_resume
from .resume import RNGStateHook
from .saving import install_safe_saving

__all__ = [
    'AdaBNHook',
    'CPUAmpOptimWrapper',
    'CheckpointGuardHook',
    'GateOptimWrapperConstructor',
    'ISWHook',
    'RNGStateHook',
    'StyleLossMixin',
    'apply_host_fixes',
    'check_fit',
    'enable_amp',
    'prepare_cpu_distributed',
    'warn_without_recipe',
]


def apply_host_fixes() -> None:
    """Mends what stops mmengine from doing its work here; idempotent.

    * `_base_ = 'mmseg::...'` looks for a distribution called mmsegmentation; its maintained continuation is called
      otherwise, so the module's own name is asked for instead.
    * `_base_ = 'mmseg_stylenorm::...'` and `mmengine.hub.get_config` know the packages in a table; ours joins it.
    * checkpoints are read with `weights_only=True`, without a fallback that runs code.
    * checkpoints are saved as plain data, whole, and before the old ones are removed (`saving`).
    * `resume=True` goes on from the newest checkpoint of the work dir, else starts from `load_from` (`latest`).
    """
    try:
        importlib.metadata.distribution('mmsegmentation')
    except importlib.metadata.PackageNotFoundError:
        MODULE2PACKAGE['mmseg'] = 'mmseg'
    MODULE2PACKAGE['mmseg_stylenorm'] = 'mmseg_stylenorm'
    install_safe_loaders()
    install_safe_saving()
    install_resume()


class StyleLossMixin:
    """For an mmengine model whose `loss()` returns style losses: put it before the model in the bases."""

    def parse_losses(self, losses: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """Adds `style.*`, and those of further passes as `adv.style.*`, to the total.

        mmengine sums only keys that contain 'loss' and merely logs the others.
        """
        total, log = super().parse_losses(losses)  # type: ignore[misc]
        style = [value for key, value in log.items() if 'style' in key.split('.') and 'loss' not in key]
        if style:
            total = log['loss'] = total + sum(style)
        return total, log


def warn_without_recipe(model: nn.Module) -> None:
    """A warning for a model with layers of a recipe, in a host that has been given none."""
    recipe = recipe_of(model)
    if recipe is not None:
        text = f"the layers of {recipe!r} change nothing by themselves: to train with them, set model.recipe='{recipe}'"
        print_log(text, 'current', logging.WARNING)


@OPTIM_WRAPPERS.register_module()
class CPUAmpOptimWrapper(OptimWrapper):
    """bfloat16 autocast on the CPU, which mmengine's AmpOptimWrapper refuses. bfloat16 needs no loss scaling."""

    @contextlib.contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """The forward pass runs in here."""
        with super().optim_context(model), torch.autocast('cpu', dtype=torch.bfloat16):
            yield


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class GateOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """mmengine's own constructor, then `gates.separate_gates`: what batch-instance normalisation (BIN) needs.

        optim_wrapper = dict(constructor='GateOptimWrapperConstructor', optimizer=dict(type='SGD', lr=0.01))

    `paramwise_cfg=dict(gate_lr_mult=10.0)` is the learning rate of a gate over that of its neighbours; its other keys
    are mmengine's.
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None) -> None:
        paramwise_cfg = dict(paramwise_cfg or {})
        self.lr_factor = paramwise_cfg.pop('gate_lr_mult', 10.0)
        super().__init__(optim_wrapper_cfg, paramwise_cfg)

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """The wrapper with the optimizer of `model`, which may be wrapped in DDP."""
        wrapper = super().__call__(model)
        separate_gates(wrapper.optimizer, model, self.lr_factor)
        return wrapper


def enable_amp(cfg: Config) -> None:
    """Makes the config's optimizer wrapper the mixed-precision one of this machine.

    Raises:
        ValueError: the config has an optimizer wrapper of another kind.
    """
    wrapper = cfg.optim_wrapper
    kind = wrapper.get('type', 'OptimWrapper')
    if kind not in ('OptimWrapper', 'AmpOptimWrapper', 'CPUAmpOptimWrapper'):
        raise ValueError(f"--amp replaces optim_wrapper.type='OptimWrapper'; this config has {kind!r}")
    if torch.cuda.is_available():
        wrapper.type = 'AmpOptimWrapper'
        wrapper.setdefault('loss_scale', 'dynamic')
        return
    wrapper.type = 'CPUAmpOptimWrapper'
    for key in ('loss_scale', 'dtype', 'use_fsdp'):  # of AmpOptimWrapper only
        wrapper.pop(key, None)


def _rank_variables(launcher: str) -> None:
    """Fills the environment that `init_process_group` reads, where the launcher uses other names."""
    names = {
        'slurm': ('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_LOCALID'),
        'mpi': ('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_SIZE', 'OMPI_COMM_WORLD_LOCAL_RANK'),
    }.get(launcher, ())
    for ours, theirs in zip(('RANK', 'WORLD_SIZE', 'LOCAL_RANK'), names, strict=False):
        if theirs in os.environ:
            os.environ[ours] = os.environ[theirs]
    os.environ.setdefault('MASTER_PORT', '29500')
    if launcher != 'pytorch' and os.environ.get('WORLD_SIZE') == '1':
        os.environ.setdefault('MASTER_ADDR', '127.0.0.1')
    lacking = [name for name in ('RANK', 'WORLD_SIZE', 'MASTER_ADDR') if name not in os.environ]
    if lacking:
        raise ValueError(
            f'--launcher {launcher} without {", ".join(lacking)} in the environment; on one machine start with '
            '`python -m torch.distributed.run --nproc_per_node N tools/train.py CONFIG --launcher pytorch`'
        )


def _sync_bn_to_bn(node: Any) -> int:
    """Replaces SyncBN in a model config, in place; returns how often."""
    if isinstance(node, dict):
        own = node.get('type') in ('SyncBN', 'MMSyncBN')
        if own:
            node['type'] = 'BN'
        return int(own) + sum(_sync_bn_to_bn(value) for value in node.values())
    return sum(map(_sync_bn_to_bn, node)) if isinstance(node, list | tuple) else 0


def _leave_group() -> None:
    """At exit: gloo's threads must end before the interpreter does, else they may abort a process that has finished.

    They end with the last reference to the group. DDP, which has one, lies in cycles with the Runner.
    """
    if torch.distributed.is_initialized():
        gc.collect()
        torch.distributed.destroy_process_group()


def prepare_cpu_distributed(cfg: Config, launcher: str) -> None:
    """Lets several processes train without a GPU; does nothing with a GPU or without a launcher.

    mmengine would ask for CUDA devices: so the gloo group exists before the Runner, and DDP gets no device ids.
    SyncBN needs a GPU, so it becomes BN (with a message), in the model and by the key `sync_bn`.

    Raises:
        ValueError: the launcher left no rank in the environment.
    """
    if launcher == 'none' or torch.cuda.is_available():
        return
    _rank_variables(launcher)
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group('gloo')
        atexit.register(_leave_group)
    os.environ.setdefault('LOCAL_RANK', os.environ['RANK'])
    wrapper = {'type': 'MMDistributedDataParallel', 'device_ids': None, 'broadcast_buffers': False}
    wrapper['find_unused_parameters'] = cfg.get('find_unused_parameters', False)
    cfg.model_wrapper_cfg = ConfigDict(wrapper)
    if _sync_bn_to_bn(cfg.model) + bool(cfg.pop('sync_bn', None)):
        print_log('no GPU: SyncBN became BN, each process normalises by its own images', 'current', logging.WARNING)
