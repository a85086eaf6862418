"""A timm model, with or without style layers, as a model of mmengine's Runner."""

import difflib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import timm
import torch.nn.functional as F
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from timm.data import resolve_model_data_config
from timm.loss import JsdCrossEntropy, LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from torch import Tensor, nn

from ..recipes import LossTerm, Recipe, build_recipe
from ..recipes.apply import part_losses
from ..runner.host import progress
from ..runner.model import StyleLossMixin, log_style, warn_without_recipe
from ..surgery.add import add_style, set_domains
from ..surgery.losses import set_classes
from ..surgery.structure import batch_norms
from .checkpoint import load_checkpoint


@MODELS.register_module()
class StyleNormClassifier(StyleLossMixin, BaseModel):
    """A timm model with style methods, trained with (label-smoothed or soft-target) cross-entropy.

        model = dict(
            type='StyleNormClassifier', model='resnet50', num_classes=1000, style=dict(type='padain', p=0.01),
            label_smoothing=0.1, data_preprocessor=dict(mixup=0.2, cutmix=1.0))

    The losses are `loss_cls` and, for methods with a loss of their own, `style.<method>.<site>`; the total is their
    sum. A recipe adds the losses of its other passes: `adv.loss_cls`, `adv.style.<method>.<site>`. The network is
    `self.net`, so its keys in a checkpoint start with `net.`.

    Args:
        model: a name of `timm.list_models()` or `hf-hub:...`; names with a style (`resnet50_padain`) work too.
        num_classes: K.
        style: as in `add_style`: a method's name, a dict with `type` and its arguments, or a list of them.
        recipe: a training procedure, see `recipes`: its name, or a dict with `type` and its arguments.
        aug_splits: number of views of each image, see `AugSplits`. The loss is then timm's `JsdCrossEntropy`: that of
            the first views, plus `jsd_weight` times the Jensen-Shannon divergence between the predictions for all
            views. With 0, it is the cross-entropy over all images.
        jsd_weight: see `aug_splits`; 12 in the AugMix paper.
        label_smoothing: share of the target spread evenly over the K classes. Soft labels are taken as they are,
            except Mixup's, which are smoothed when they are made.
        norm_eval: batch norms keep the running statistics they start with; their weights are still trained.
        small_images: a 3x3 stem of stride 1 without pooling, as in ResNets for CIFAR.
        init_checkpoint: weights to start from; see `load_checkpoint`.
        data_preprocessor: arguments of `ClsPreprocessor`; mean and std default to those of the model's weights.
        **model_kwargs: everything else goes to `timm.create_model` (`pretrained=True`, `drop_path_rate=0.1`, ...).
    """

    def __init__(
        self,
        model: str,
        num_classes: int = 1000,
        style: str | dict | list | None = None,
        recipe: str | dict | None = None,
        label_smoothing: float = 0.0,
        aug_splits: int = 0,
        jsd_weight: float = 12.0,
        norm_eval: bool = False,
        small_images: bool = False,
        init_checkpoint: str | None = None,
        data_preprocessor: dict | nn.Module | None = None,
        **model_kwargs: Any,
    ) -> None:
        if aug_splits < 0 or aug_splits == 1:
            raise ValueError(f'StyleNormClassifier: expected aug_splits 0, or at least 2, got {aug_splits}')
        if not 0 <= label_smoothing < 1:
            raise ValueError(f'StyleNormClassifier: expected 0 <= label_smoothing < 1, got {label_smoothing}')
        _check_name(model)
        procedure = Recipe() if recipe is None else build_recipe(recipe)
        net = _created(model, num_classes, model_kwargs)
        if small_images:
            use_small_stem(net)
        if style is not None:
            add_style(net, style)
        set_classes(net, num_classes, dense=False)
        if not isinstance(data_preprocessor, nn.Module):
            data_config = resolve_model_data_config(net)
            defaults = dict(mean=data_config['mean'], std=data_config['std'])
            defaults.update(type='ClsPreprocessor', num_classes=num_classes, label_smoothing=label_smoothing)
            data_preprocessor = {**defaults, **(data_preprocessor or {})}
        super().__init__(data_preprocessor=data_preprocessor)
        if recipe is None:
            warn_without_recipe(net)
        else:
            procedure.prepare(net, mean=self.data_preprocessor.mean.flatten(), std=self.data_preprocessor.std.flatten())
        log_style(net)
        if init_checkpoint:
            load_checkpoint(net, init_checkpoint)
        self.net, self.recipe, self.norm_eval = net, procedure, norm_eval
        self.hard_loss: nn.Module = LabelSmoothingCrossEntropy(label_smoothing)
        self.soft_loss = SoftTargetCrossEntropy()
        self.aug_splits = aug_splits
        if aug_splits:
            self.hard_loss = JsdCrossEntropy(aug_splits, jsd_weight, label_smoothing)

    def train(self, mode: bool = True) -> 'StyleNormClassifier':
        """Like torch's `train`, but `norm_eval` keeps batch norms in evaluation mode."""
        super().train(mode)
        if self.norm_eval:
            for _, norm in batch_norms(self.net):
                norm.eval()
        return self

    def init_weights(self) -> None:
        """Nothing: timm has initialised the net or loaded its weights, and the Runner's call would undo that."""

    def forward(
        self,
        inputs: Tensor,
        targets: Tensor | None = None,
        mode: str = 'tensor',
        domain: list[str] | None = None,
        unread: Sequence[Sequence[str]] | None = None,
    ) -> Tensor | dict[str, Tensor] | list[dict]:
        """What the Runner calls.

        Args:
            inputs: (N, C, H, W), normalised.
            targets: labels (N,), or class probabilities (N, K).
            mode: 'tensor' returns the logits (N, K); 'loss' a dict of scalars; 'predict' one dict per image with
                `scores` (K,), `label`, and `target`, `domain` and `unread` where they are known.
            domain: name of the domain of each image, passed on to the metric, and to layers that mix domains.
            unread: in a test that keeps going, two sequences: for each image the path of the one that it replaces, and
                the reason; both are empty for ordinary images. See `UnreadHook`.
        """
        if mode not in ('tensor', 'loss', 'predict'):
            raise ValueError(f"StyleNormClassifier: mode is 'tensor', 'loss' or 'predict', got {mode!r}")
        if mode == 'loss':
            return self._losses(inputs, targets, domain)
        logits = self.net(inputs)
        return logits if mode == 'tensor' else _predictions(logits, targets, domain, unread)

    def _losses(self, images: Tensor, targets: Tensor | None, domain: list[str] | None) -> dict[str, Tensor]:
        if targets is None:
            raise ValueError("StyleNormClassifier: mode='loss' needs targets")
        done = progress()
        if done is not None:
            self.recipe.set_progress(*done)
        return self.recipe.losses(self.net, images, targets, partial(self._forward_loss, domain=domain))

    def _forward_loss(self, images: Tensor, parts: Sequence[LossTerm], domain: list[str] | None) -> dict[str, Tensor]:
        """Losses of one pass; see `Recipe.losses`."""
        set_domains(self.net, domain and list(domain) * (len(images) // len(domain)))
        return part_losses(self.net, self.net(images), parts, self._criterion)

    def _criterion(self, logits: Tensor, targets: Tensor) -> Tensor:
        if self.aug_splits and len(logits) % self.aug_splits:
            raise ValueError(
                f'StyleNormClassifier: aug_splits={self.aug_splits}, and a pass has {len(logits)} images: the transform'
                f' of training images ends with dict(type="AugSplits", splits={self.aug_splits}, ...)'
            )
        loss = self.soft_loss if targets.is_floating_point() else self.hard_loss
        return loss(logits.float(), targets)


def _created(model: str, num_classes: int, kwargs: Mapping[str, Any]) -> nn.Module:
    """timm's model; raises a ValueError if its file does not fit, with the option for another number of classes."""
    try:
        return timm.create_model(model, num_classes=num_classes, **kwargs)
    except RuntimeError as error:
        file = kwargs.get('checkpoint_path')
        if not file:
            raise
        raise ValueError(
            f'checkpoint_path={file!r} does not fit {model} with {num_classes} classes; pretrained=True with '
            f'pretrained_cfg_overlay=dict(file={file!r}) takes another number of classes. {error}'
        ) from error


def _check_name(model: str) -> None:
    """Raise a ValueError with the nearest names, if timm has no such model."""
    name = model.partition('.')[0]
    if '/' in model or ':' in model or timm.is_model(name):
        return
    near = difflib.get_close_matches(name, timm.list_models(), n=3)
    hint = f'; did you mean {" or ".join(near)}?' if near else ''
    raise ValueError(f"timm has no model '{model}'{hint} See timm.list_models()")


def _predictions(
    logits: Tensor, targets: Tensor | None, domain: list[str] | None, unread: Sequence[Sequence[str]] | None
) -> list[dict]:
    scores = F.softmax(logits.float(), dim=1).cpu()
    results = [dict(scores=row, label=label) for row, label in zip(scores, scores.argmax(1).tolist(), strict=True)]
    for i, target in enumerate([] if targets is None else targets.tolist()):
        results[i]['target'] = target
    for i, name in enumerate(domain or []):
        results[i]['domain'] = name
    for result, image, reason in zip(results, *(unread or ((), ())), strict=False):
        if image:
            result['unread'] = {'image': image, 'reason': reason}
    return results


def use_small_stem(net: nn.Module) -> nn.Module:
    """Replace the first convolution of a ResNet by a 3x3 one of stride 1 and drop the pooling after it, in place."""
    stem, pool = getattr(net, 'conv1', None), getattr(net, 'maxpool', None)
    if not isinstance(stem, nn.Conv2d) or pool is None:
        raise ValueError(
            f'small_images: {type(net).__name__} has no stem made of a convolution `conv1` and a `maxpool`; '
            f'it works for the plain ResNet family (resnet18, resnext50_32x4d, seresnet50, ...)'
        )
    if hasattr(stem, 'style'):
        raise ValueError(
            'small_images: the stem carries a style layer already; name the plain model, and the style in `style`'
        )
    net.conv1 = nn.Conv2d(stem.in_channels, stem.out_channels, 3, padding=1, bias=stem.bias is not None)
    nn.init.kaiming_normal_(net.conv1.weight, mode='fan_out', nonlinearity='relu')
    net.maxpool = nn.Identity()
    return net
