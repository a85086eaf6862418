"""Optimizer wrappers: mixed precision on a CPU, and a separate parameter group for BIN's gates."""

import contextlib
from collections.abc import Iterator

import torch
from mmengine.config import Config
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS, OPTIMIZERS
from torch import nn

from ..errors import unknown
from ..gates import separate_gates


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

    `paramwise_cfg=dict(gate_lr_mult=10.0)` is the ratio of a gate's learning rate to the one of its original group; the
    other keys are mmengine's.
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


def check_optimizer(cfg: Config) -> None:
    """Checks that the config's optimizer is registered; mmengine fails on `None` without naming it.

    Raises:
        ValueError: it is not registered; the message names the nearest ones.
    """
    kind = (cfg.optim_wrapper.get('optimizer') or {}).get('type')
    if isinstance(kind, str) and OPTIMIZERS.get(kind) is None:
        raise ValueError(unknown('optimizer', kind, OPTIMIZERS.module_dict))


def enable_amp(cfg: Config) -> None:
    """Makes the config's optimizer wrapper the mixed-precision one for this machine.

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
