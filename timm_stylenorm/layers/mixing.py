"""Layers that mix the styles of a batch in training: MixStyle and EFDMix.

Zhou, Yang, Qiao, Xiang, 'Domain Generalization with MixStyle', ICLR 2021, arXiv:2104.02008.
Zhang, Li, Li, Jia, Zhang, 'Exact Feature Distribution Matching for Arbitrary Style Transfer and Domain
Generalization', CVPR 2022, arXiv:2203.07740.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..functional import efdmix, mixstyle
from .arguments import check
from .base import RandomStyleLayer, beta


def mixing_partners(n: int, mix: str, like: Tensor, domains: Tensor | None = None) -> Tensor:
    """A partner for each of n images, (n,), as the authors draw it.

    'random' permutes the batch. 'crossdomain' takes the batch as two domains one after the other, [first; second], and
    gives each half the other one, shuffled; in an odd batch the middle image may meet its own half. With `domains`,
    (n,), each image takes a random one of another domain, where there is one.
    """
    if domains is not None:
        if len(domains) != n:
            raise ValueError(f'mixing_partners: domains has {len(domains)} labels for a batch of {n} images')
        domains = domains.to(like.device)
        others = (domains[:, None] != domains[None]).float()
        alone = others.sum(1, keepdim=True) == 0
        return torch.multinomial(torch.where(alone, torch.eye(n, device=like.device), others), 1)[:, 0]
    if mix == 'random':
        return torch.randperm(n, device=like.device)
    first, second = torch.arange(n - 1, -1, -1, device=like.device).tensor_split([(n + 1) // 2])
    return torch.cat([part[torch.randperm(len(part), device=like.device)] for part in (first, second)])


class _Mixing(RandomStyleLayer):
    """What MixStyle and EFDMix share."""

    domains: Tensor | None = None  # of the images of the next batch

    def __init__(
        self,
        num_features: int | None = None,
        p: float = 0.5,
        alpha: float = 0.1,
        mix: str = 'random',
        branch_free: bool = False,
    ) -> None:
        super().__init__(p, branch_free)
        check(self, alpha=alpha)
        if mix not in ('random', 'crossdomain'):
            raise ValueError(f"{type(self).__name__}: mix must be 'random' or 'crossdomain', got {mix!r}")
        self.alpha, self.mix = alpha, mix
        self.waits_for = 'domains' if mix == 'crossdomain' else ''

    def is_waiting(self) -> bool:
        return self.domains is None

    def mixed(self, x: Tensor, perm: Tensor, lmda: Tensor) -> Tensor:
        raise NotImplementedError

    def act(self, x: Tensor) -> Tensor:
        lmda = beta(self.alpha, len(x), x)
        domains = self.domains if self.mix == 'crossdomain' else None
        return self.mixed(x, mixing_partners(len(x), self.mix, x, domains), lmda)

    def extra_repr(self) -> str:
        return f'p={self.p}, alpha={self.alpha}, mix={self.mix!r}'


class MixStyle(_Mixing):
    """`functional.mixstyle` with probability `p` for each call in training, the identity otherwise.

    x, y: (N, C, *spatial). Each image draws its own share from Beta(alpha, alpha).

    Args:
        num_features: Not used; any layer can stand where a norm layer is built.
        p: Probability that a call mixes.
        alpha: Of the Beta distribution.
        mix: 'random' or 'crossdomain', see `mixing_partners`. The domains of a batch are told by
            `timm_stylenorm.set_domains`; without them 'crossdomain' takes its halves for two domains.
        eps: Added to the unbiased variance.
        branch_free: See `RandomStyleLayer`.

    Raises:
        ValueError: `p` outside [0, 1], `alpha` not positive, or an unknown `mix`.
    """

    def __init__(
        self,
        num_features: int | None = None,
        p: float = 0.5,
        alpha: float = 0.1,
        mix: str = 'random',
        eps: float = 1e-6,
        branch_free: bool = False,
    ) -> None:
        super().__init__(num_features, p, alpha, mix, branch_free)
        check(self, eps=eps)
        self.eps = eps

    def mixed(self, x: Tensor, perm: Tensor, lmda: Tensor) -> Tensor:
        return mixstyle(x, perm, lmda, self.eps)


class EFDMix(_Mixing):
    """`functional.efdmix` with probability `p` for each call in training.

    Args:
        num_features: Not used; any layer can stand where a norm layer is built.
        p: Probability that a call mixes.
        alpha: Of the Beta distribution.
        mix: 'random' or 'crossdomain', see `MixStyle`.
        branch_free: See `RandomStyleLayer`.

    Raises:
        ValueError: `p` outside [0, 1], `alpha` not positive, or an unknown `mix`.
    """

    def mixed(self, x: Tensor, perm: Tensor, lmda: Tensor) -> Tensor:
        return efdmix(x, perm, lmda)
