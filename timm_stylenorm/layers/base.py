"""Base classes of the style layers, and helpers that the layers share."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any, TypeGuard, TypeVar

import torch
from torch import Tensor, fx, nn

from ..errors import StyleNormWarning
from ..functional import backend
from .arguments import check_flag, check_range
from .companions import COMPANIONS

if TYPE_CHECKING:
    from typing_extensions import Self

M = TypeVar('M', bound=nn.Module)


class StyleLayer(nn.Module):
    """A module that restyles a feature map and may store an auxiliary loss. A subclass defines `restyle`.

    Maps are (N, C, *spatial) or, with `channel_dim=-1`, (N, H, W, C) or tokens (N, L, C).

    Attributes:
        attachment: The record that `surgery` keeps of a layer in a model; its `str` is the method and the site
            ('snr.stage1'). None if the layer is used on its own.
        channel_dim: The dimension of the channels: 1 or -1.
        prefix_tokens: The number of tokens at the front (class and register tokens) that pass unchanged.
        enabled: The layer is the identity while this is false; see `NormLayer` for layers that replace a norm.
        aux: The weighted auxiliary loss of the last training forward pass, a scalar, until `style_losses` takes it.
        sums: Whether losses of several forward passes add up and their logits are concatenated; see `summed_losses`.
        logits: Class logits of that forward pass for losses that need labels, (N, K) or (N, K, H, W).
        ce_weight: Weight of the cross entropy of `logits`.
        waits_for: The key in `COMPANIONS` of the companion that the layer needs and nobody has provided; '' if none.
        training_only: Names of tensors that only training needs: a checkpoint may lack them, or contain them although
            the layer does not have them.
    """

    attachment: Any = None
    channel_dim: int = 1
    prefix_tokens: int = 0
    enabled: bool = True
    aux: Tensor | None = None
    sums: bool = False
    logits: Tensor | None = None
    ce_weight: float = 1.0
    waits_for: str = ''
    is_norm = False  # see NormLayer
    training_only: tuple[str, ...] = ()

    def restyle(self, x: Tensor) -> Tensor:
        """Restyle a map (N, C, *spatial); a subclass implements it."""
        raise NotImplementedError

    @classmethod
    def configure_group(cls, layers: Sequence[Self]) -> None:
        """Called once with all layers that one style method adds to a model, in case they share something."""

    def added_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters that the model does not have without the layer."""
        yield from self.parameters()

    def set_classes(self, num_classes: int, dense: bool) -> None:
        """Called by hosts that know the number of classes, for layers that wait for it; 0 leaves the loss off."""

    def loss_terms(self) -> tuple[str, ...]:
        """Descriptions of the terms that the layer adds to a training loss; empty by default."""
        return ()

    def is_waiting(self) -> bool:
        """Whether the layer currently does less than it should because its companion is missing."""
        return bool(self.waits_for)

    def warn_if_waiting(self) -> None:
        """Warn in training if the companion is missing; Python shows the warning once for each method."""
        if self.training and torch.is_grad_enabled() and self.is_waiting():
            name = self.attachment.asked if self.attachment else type(self).__name__
            warnings.warn(f'{name}: {"; ".join(COMPANIONS[self.waits_for])}', StyleNormWarning, stacklevel=2)

    def _load_from_state_dict(self, state_dict: MutableMapping[str, Tensor], prefix: str, *args: object) -> None:
        own = self.state_dict() if self.training_only else {}
        written = any(prefix + name in state_dict for name in own if name not in self.training_only)
        for name in self.training_only:
            if name not in own:
                state_dict.pop(prefix + name, None)
            elif written:  # the state dict is from this layer, not from a plain model
                state_dict.setdefault(prefix + name, own[name])
        super()._load_from_state_dict(state_dict, prefix, *args)

    def has_loss(self) -> bool:
        """Whether a training forward pass stores a loss."""
        return False

    def drop_losses(self) -> None:
        """Forget the losses of the last forward pass."""
        self.aux = self.logits = None

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(x, fx.Proxy):
            return as_node(self, x)
        aux, logits = self.aux, self.logits
        self.drop_losses()
        y = self._restyled(x)
        if aux is not None or logits is not None:
            self._second_forward(aux, logits)
        return y

    def _second_forward(self, aux: Tensor | None, logits: Tensor | None) -> None:
        """Add the losses that nobody has taken from the previous forward pass, or warn that they are dropped."""
        if self.sums:
            self.aux = aux if self.aux is None or aux is None else aux + self.aux
            self.logits = logits if self.logits is None or logits is None else torch.cat([logits, self.logits])
        elif self.attachment and self.training and torch.is_grad_enabled() and not backend.is_compiling():
            warnings.warn(
                f'{self.attachment}: nobody took the loss of the last forward, which this one '
                'drops. Call timm_stylenorm.style_losses(model, target) after each forward, or run several within '
                '`with timm_stylenorm.summed_losses(model)`',
                StyleNormWarning,
                stacklevel=2,
            )

    def _restyled(self, x: Tensor) -> Tensor:
        if self.training and torch.jit.is_tracing():
            name = self.attachment.asked if self.attachment else type(self).__name__
            warnings.warn(
                f'{name}: traced in training, its draws, losses and batch statistics become constants; call '
                'model.eval() before',
                StyleNormWarning,
                stacklevel=2,
            )
        if self.waits_for and not backend.is_compiling():
            self.warn_if_waiting()
        if not isinstance(x, Tensor):
            raise TypeError(f'{self.attachment or type(self).__name__}: expected one map, got {type(x).__name__}')
        if x.dim() < 3:
            raise ValueError(f'{type(self).__name__}: expected a map (N, C, *spatial), got shape {tuple(x.shape)}')
        if not self.enabled and not self.is_norm:
            return x
        if self.channel_dim == 1:
            return self.restyle(x)
        prefix, x = x[:, : self.prefix_tokens], x[:, self.prefix_tokens :]
        y = self.restyle(x.movedim(self.channel_dim, 1)).movedim(1, self.channel_dim)
        return torch.cat([prefix, y], 1) if self.prefix_tokens else y

    def __prepare_scriptable__(self) -> nn.Module:
        """Called by torch before it compiles a module to TorchScript.

        Raises:
            NotImplementedError: Always; the message says what to do instead.
        """
        raise NotImplementedError(
            f'{self.attachment or type(self).__name__}: torch.jit.script does not support style layers, whose hooks it '
            'cannot compile; take torch.jit.trace in evaluation mode, torch.export or torch.compile'
        )

    def __getstate__(self) -> dict[str, object]:
        """Leave the losses out of copies and pickles: they belong to an autograd graph, which cannot be copied."""
        return {**self.__dict__, 'aux': None, 'logits': None}


def as_node(layer: nn.Module, x: fx.Proxy) -> fx.Proxy:
    """The layer as one node of a graph that `torch.fx` traces: it uses values, modes and draws when the graph runs.

    A tracer's `leaf_modules` and timm's `register_notrace_module` do this for other modules; style layers need neither.
    """
    tracer: Any = x.tracer
    return tracer.create_proxy('call_module', tracer.path_of_module(layer), (x,), {})


def is_plain(module: nn.Module, *kinds: type[M]) -> TypeGuard[M]:
    """Whether a module is an unmodified instance of `kinds`, so that its tensors can be used without calling it.

    A subclass, a wrapper, a parametrization, hooks (such as those of pruning) or an overridden `forward` may do more.
    """
    kept = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    hooks = sum(len(hooks) for hooks in kept)  # dynamo does not support `not` of them
    return type(module) in kinds and hooks == 0 and 'forward' not in vars(module)


def called(module: nn.Module, small: Tensor) -> Tensor:
    """The output of a module for a small tensor, in the dtype of that tensor, computed outside autocast."""
    with backend.outside_autocast(small):
        dtype = next((p.dtype for p in module.parameters()), small.dtype)
        return module(small.to(dtype)).to(small.dtype)


class RandomStyleLayer(StyleLayer):
    """A layer without parameters that acts in training, with probability `p` for each call. A subclass defines `act`.

    The host decides at random whether a call acts: with 0 < p < 1 this means one graph break for each call under
    `torch.compile`, and a call that does not act costs nothing.

    Args:
        p: Probability that a call acts; it can be changed later.
        branch_free: Compute the result in every call, and choose between result and input by `torch.where` on the
            device: one graph for all values of `p`, but the full cost in every call.

    Raises:
        ValueError: `p` outside [0, 1].
    """

    chance: Tensor | None  # `p` as a tensor, which a graph reads instead of holding a constant

    def __init__(self, p: float, branch_free: bool = False) -> None:
        super().__init__()
        check_range(self, 0, 1, p=p)
        check_flag(self, branch_free=branch_free)
        self.branch_free = branch_free
        self.register_buffer('chance', torch.empty(()) if branch_free else None, persistent=False)
        self.p = p

    @property
    def p(self) -> float:
        """Probability that a call acts."""
        return self._p

    @p.setter
    def p(self, p: float) -> None:
        self._p = p
        self.reset_parameters()

    def reset_parameters(self) -> None:
        if self.chance is not None:
            self.chance.fill_(self._p)

    def act(self, x: Tensor) -> Tensor:
        """Restyle a map in a call that acts; a subclass implements it."""
        raise NotImplementedError

    def restyle(self, x: Tensor) -> Tensor:
        if self.chance is None:
            return self.act(x) if self.should_apply(x) else x
        if not self.training or x.shape[2:].numel() == 1:
            return x
        return torch.where(torch.rand((), device=x.device) < self.chance * self.turns(), self.act(x), x)

    def turns(self) -> float:
        """For branch-free layers: the share of the layers of one style that act in a forward pass in which any acts."""
        return 1.0

    def should_apply(self, x: Tensor) -> bool:
        """Whether this call acts on `x`; a map with one position has no deviation and never changes."""
        if not self.training or self.p == 0 or x.shape[2:].numel() == 1:
            return False
        return self.p == 1 or torch.rand((), device='cpu').item() < self.p


def beta(alpha: float, n: int, like: Tensor) -> Tensor:
    """n draws from Beta(alpha, alpha), float32, by torch's generator of the device of `like`."""
    shape = torch.full((n, 2), float(alpha), device=like.device)
    if not backend.is_compiling():
        return torch.distributions.Dirichlet(shape, validate_args=False).sample()[:, 0]
    gamma = torch.distributions.Gamma(shape, torch.ones_like(shape), validate_args=False).sample()
    return gamma[:, 0] / gamma.sum(1)  # the same draws; graphs cannot contain the operator used above
