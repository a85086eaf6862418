"""The base class of layers that replace a norm layer, and instance norm as a layer of this kind.

They are not subclasses of batch norm, because every SyncBatchNorm converter would turn them into plain SyncBatchNorm.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..functional import instance_norm
from .arguments import check
from .base import StyleLayer

if TYPE_CHECKING:
    from typing_extensions import Self

BATCH_NORMS: dict[int, type[_BatchNorm]] = {3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}


class NormLayer(StyleLayer):
    """A style layer that can take the place of a batch norm layer and load its state dict.

    It never becomes the identity, because a network needs its norms. With `enabled=False`, `BatchInstanceNorm2d` is
    batch norm and `DualBatchNorm2d` its main one; the others continue, since there is no norm to go back to. Only a
    layer that is attached to a module, such as the instance norm of IBN-b after a residual sum, does not run then.

    Attributes:
        dim: Number of dimensions of the maps that it takes, if `forms` has classes for others.
        forms: Number of dimensions -> the class for such maps; empty if the layer takes all maps.
        num_features: C.
        to_norm: For layers that can be removed: makes the batch norm.
        drop: timm's fused dropout of the replaced layer, or None.
        act: timm's fused activation of the replaced layer, or None.
    """

    is_norm = True
    dim = 4
    forms: Mapping[int, type[NormLayer]] = {}
    num_features: int
    to_norm: Callable[[], nn.Module]
    drop: nn.Module | None
    act: nn.Module | None

    def __init__(self) -> None:
        super().__init__()
        self.register_module('drop', None)
        self.register_module('act', None)

    @classmethod
    def from_norm(cls, norm: _BatchNorm, **kwargs: object) -> Self:
        """The layer that replaces a batch norm layer, of the class for its maps (see `forms`).

        Args:
            norm: `nn.BatchNorm*d`, `nn.SyncBatchNorm` or timm's BatchNormAct2d; it is not changed. The new layer takes
                over its weights and which of them train, statistics, mode, device and dtype, as far as it has them.
                Parameters that `norm` does not have (gates, an instance norm beside the batch norm) train.
            **kwargs: Arguments of the layer; `eps` and `momentum` are taken from `norm` by default.

        Raises:
            ValueError: The norm is frozen (torchvision's or timm's class), has no weights, or no running statistics.
        """
        _refuse(cls, norm)
        own = inspect.signature(cls).parameters
        inherited = {k: getattr(norm, k) for k in ('eps', 'momentum') if k in own and hasattr(norm, k)}
        kind = cast('type[Self]', cls.forms.get(dim_of(norm), cls))
        with torch.device('cpu'):  # regardless of the default device
            layer = kind(norm.num_features, **{**inherited, **kwargs})  # type: ignore[call-arg]
        layer.to(norm.weight.device, norm.weight.dtype)
        layer.load_state_dict(norm.state_dict(), strict=False)
        trained = {k: p.requires_grad for k, p in norm.named_parameters(recurse=False)}
        added = {*layer.added_parameters()}
        for name, parameter in layer.named_parameters():
            parameter.requires_grad_(parameter in added or trained.get(name.rpartition('.')[2], True))
        for name in ('drop', 'act'):
            follower = getattr(norm, name, None)
            if isinstance(follower, nn.Module):
                setattr(layer, name, follower)
        return layer.train(norm.training)

    def added_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters that a batch norm in its place does not have."""
        yield from ()

    def from_plain(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The layer's entries for the state dict of a batch norm; without the statistics if the layer keeps none."""
        return {k: v for k, v in state.items() if hasattr(self, k)}

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        if isinstance(y, fx.Proxy):  # a node of a graph, which includes the modules below
            return y
        for module in (self.drop, self.act):
            if module is not None and not isinstance(module, nn.Identity):
                y = module(y)
        return y

    def take_plain(self, state: MutableMapping[str, Tensor], prefix: str) -> None:
        """Rename the entries of a batch norm under `prefix` to those of this layer, in place."""
        names = ('weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked')
        plain = {k: state[prefix + k] for k in names if prefix + k in state}
        ours = self.from_plain(plain)
        if ours.keys() != plain.keys():
            for key in plain:
                del state[prefix + key]
            for key, value in ours.items():
                state.setdefault(prefix + key, value)

    def _load_from_state_dict(self, state_dict: MutableMapping[str, Tensor], prefix: str, *args: object) -> None:
        self.take_plain(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)


def dim_of(norm: object, otherwise: int = 0) -> int:
    """Number of dimensions of the maps that a batch norm takes, 3 to 5; `otherwise` if it takes any (SyncBatchNorm)."""
    return next((dim for dim, kind in BATCH_NORMS.items() if isinstance(norm, kind)), otherwise)


def is_frozen(norm: object) -> bool:
    """Whether it is a batch norm with fixed weights and statistics, such as the frozen ones of torchvision and timm."""
    return bool({'FrozenBatchNorm2d', 'FrozenBatchNormAct2d'} & {kind.__name__ for kind in type(norm).__mro__})


def _refuse(cls: type, norm: _BatchNorm) -> None:
    """Raise a ValueError for a batch norm that `cls` cannot replace."""
    if is_frozen(norm):
        raise ValueError(f'{cls.__name__} cannot replace {type(norm).__name__}: it is frozen; unfreeze the model first')
    for option, there in (('affine', norm.weight), ('track_running_stats', norm.running_mean)):
        if there is None:
            raise ValueError(
                f'{cls.__name__} cannot replace {type(norm).__name__} with {option}=False: it takes over its weights '
                'and running statistics'
            )


def batch_moments(mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
    """Biased moments over images and positions, (C,), from the instance moments, (N, C)."""
    between, batch_mean = torch.var_mean(mean, 0, correction=0)
    return batch_mean, var.mean(0) + between


class InstanceNorm(NormLayer):
    """Affine instance norm, in training and evaluation alike; IBN-b adds this layer to a network.

    y = weight * (x - m) / sqrt(v + eps) + bias; m, v: instance mean and biased variance. x, y: (N, C, *spatial).

    Args:
        num_features: C.
        eps: Added to the variance.

    Raises:
        ValueError: `num_features` or `eps` not positive.
    """

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        super().__init__()
        check(self, num_features=num_features, eps=eps)
        self.num_features, self.eps = num_features, eps
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))

    def restyle(self, x: Tensor) -> Tensor:
        return instance_norm(x, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return f'{self.num_features}, eps={self.eps}'
