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
    """The index of a partner for each of n images, (n,), drawn as in the authors' code.

    'random' permutes the batch. 'crossdomain' treats the batch as two domains, [first; second], and pairs each half
    with the other half, shuffled; in an odd batch the middle image may be paired with its own half. With `domains`,
    (n,), each image gets a random partner from another domain, or itself if the batch has no other domain.
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
    """Base class of MixStyle and EFDMix."""

    domains: Tensor | None = None  # labels of the images of the next batch

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
        num_features: Not used; accepted so that any layer can be built in place of a norm layer.
        p: Probability that a call mixes.
        alpha: Parameter of the Beta distribution.
        mix: 'random' or 'crossdomain', see `mixing_partners`. `timm_stylenorm.set_domains` sets the domains of a
            batch; without them 'crossdomain' treats its halves as two domains.
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
        num_features: Not used; accepted so that any layer can be built in place of a norm layer.
        p: Probability that a call mixes.
        alpha: Parameter of the Beta distribution.
        mix: 'random' or 'crossdomain', see `MixStyle`.
        branch_free: See `RandomStyleLayer`.

    Raises:
        ValueError: `p` outside [0, 1], `alpha` not positive, or an unknown `mix`.
    """

    def mixed(self, x: Tensor, perm: Tensor, lmda: Tensor) -> Tensor:
        return efdmix(x, perm, lmda)
