"""AdvBN: train the layers after a cut on features whose channel statistics are disturbed in the worst direction.

Shu, Wu, Goldblum, Goldstein, 'Encoding Robustness to Image Style via Adversarial Feature Perturbations', NeurIPS 2021,
arXiv:2009.08965.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..dual_bn import routed
from ..errors import unknown
from ..layers import AdvBN
from ..surgery.add import add_style, style_layers
from ..surgery.companions import provide
from ..surgery.context import eval_mode, override_attr
from ..surgery.frozen import let_style_train
from ..surgery.hooks import module_of
from ..surgery.sites import find_sites
from ..surgery.structure import batch_norms, norms_after
from .base import Channels, ForwardLoss, LossTerm, Recipe, Target, make_dual, refuse_checkpointing, total
from .replay import Replay

LOSS_SCALE = 2.0**12  # signs stay the same, and gradients of large batches do not vanish in float16
LOWER = ('frozen', 'statistics', 'trainable')


class AdvBNRecipe(Recipe):
    """Clean and adversarial loss: some steps of gradient ascent on the loss find the noise of the `AdvBN` layer. The
    network after it learns from clean features with the main batch norms, from disturbed ones with the auxiliary ones.

    The part of the model before the cut runs once for each batch. The ascent starts from noise of ones, runs in
    evaluation mode with the auxiliary batch norms, and computes no gradients of parameters; its steps are

        noise <- clip(noise + step * sign(dL/dnoise), 1 - eps, 1 + eps)

    As in the authors' code: no random start, statistics over the batch of one process, weight 1 for both losses.

    Args:
        cut: Site of the layer; by default the place of the layer that the model has already, or after stage 1.
        steps, step, eps, clamp: See `AdvBN`; by default the values of the layer.
        lower: The part before the cut is 'frozen' (except for layers of other style methods there), trains with frozen
            batch norm 'statistics', or is 'trainable'.

    Raises:
        ValueError: An unknown value of `lower`.
    """

    def __init__(
        self,
        cut: str | None = None,
        steps: int | None = None,
        step: float | None = None,
        eps: float | None = None,
        clamp: bool | str | None = None,
        lower: str = 'frozen',
    ) -> None:
        if lower not in LOWER:
            raise ValueError(unknown("advbn's lower part:", lower, LOWER))
        given = {'steps': steps, 'step': step, 'eps': eps, 'clamp': clamp}
        self.cut, self.lower = cut, lower
        self.options = {k: v for k, v in given.items() if v is not None}

    def prepare(
        self, model: nn.Module, encoder: nn.Module | None = None, mean: Channels = (0.0,), std: Channels = (1.0,)
    ) -> None:
        """See `Recipe.prepare`.

        Raises:
            ValueError: As `add_style`; also if the model has its layer already and `cut` names another place, or if
                it uses activation checkpointing.
        """
        refuse_checkpointing(model)
        encoder = model if encoder is None else encoder
        present = _layers(model)
        if present and self.cut is not None and not self._is_cut(encoder, module_of(model, present[0])):
            raise ValueError(
                f'recipe advbn: cut={self.cut!r}, and the model has its layer at {str(present[0].attachment)!r}'
            )
        if present:
            present[0].change(**self.options)
        else:
            sites = {} if self.cut is None else {'sites': self.cut}
            add_style(encoder, {'type': 'advbn', **sites, **self.options})
        inside = set(encoder.modules())
        after = {name for name, _ in norms_after(model, _replay(model).cut)}
        make_dual(model, [name for name, norm in batch_norms(model) if name in after or norm not in inside])
        provide(model, 'recipe')
        if self.lower == 'frozen':
            for module in _replay(model).lower:
                module.requires_grad_(False)
                let_style_train(module)

    def _is_cut(self, encoder: nn.Module, module: nn.Module) -> bool:
        return [site.module for site in find_sites(encoder, self.cut or ())] == [module]

    def losses(self, model: nn.Module, images: Tensor, target: Target, forward_loss: ForwardLoss) -> dict[str, Tensor]:
        if not model.training:
            return forward_loss(images, [LossTerm(target)])
        refuse_checkpointing(model)
        replay = _replay(model)
        self._hold(replay)
        with replay.recording():
            clean = forward_loss(images, [LossTerm(target)])

        def loss(features: Tensor) -> Tensor:
            with replay.playing(features):
                return total(forward_loss(images, [LossTerm(target)]))

        layer, features = replay.layer, replay.features
        clamps = layer.clamps(features)  # computed once for a batch, since it waits for the GPU
        with routed(model, 'adversarial'), override_attr([layer], 'clamp', clamps):
            with eval_mode(model):
                noise = ascend(layer, features, loss)
            with replay.playing(layer.perturb(features, *noise)):
                adversarial = forward_loss(images, [LossTerm(target, name='adv')])
        same = clean.keys() & adversarial.keys()
        if same:
            raise ValueError(f"recipe advbn: both passes gave {sorted(same)}; name losses by their part's `label`")
        return {**clean, **adversarial}

    def _hold(self, replay: Replay) -> None:
        """Keep the lower part, or only its batch norms, in evaluation mode."""
        for module in replay.lower:
            if self.lower == 'frozen':
                module.eval()
                let_style_train(module)
            elif self.lower == 'statistics':
                for _, norm in batch_norms(module):
                    norm.eval()


def ascend(layer: AdvBN, features: Tensor, loss: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """The noise that raises a loss: `layer.steps` steps of signed gradient ascent from ones.

    Only the noise gets a gradient, so no parameter does, and nothing is synchronised between processes. If a gradient
    is not finite, the noise stays unchanged.

    Args:
        layer: Provides the number of steps, the step size and the radius, and disturbs the features.
        features: (N, C, *spatial).
        loss: A scalar function of the disturbed features; the network should be in evaluation mode.

    Returns:
        noise_mean, noise_std: (C,), float32.
    """
    features = features.detach()
    noise = [torch.ones(features.shape[1], device=features.device) for _ in range(2)]
    for _ in range(layer.steps):
        with torch.enable_grad():
            value = LOSS_SCALE * loss(layer.perturb(features, *(n.requires_grad_() for n in noise)))
            gradients = torch.autograd.grad(value, noise)
        steps = [layer.step * g.nan_to_num(0, 0, 0).sign() for g in gradients]
        noise = [
            (n + s).clamp(1 - layer.eps, 1 + layer.eps) for n, s in zip((n.detach() for n in noise), steps, strict=True)
        ]
    return noise[0], noise[1]


def _layers(model: nn.Module) -> list[AdvBN]:
    return [layer for _, layer in style_layers(model) if isinstance(layer, AdvBN)]


def _replay(model: nn.Module) -> Replay:
    layers = _layers(model)
    if not layers:
        raise ValueError(f'recipe advbn: this {type(model).__name__} has no AdvBN layer; call `prepare` first')
    return Replay(model, layers[0])
