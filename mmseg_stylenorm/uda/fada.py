"""FADA: class-aware adversarial adaptation (Wang et al., ECCV 2020, arXiv:2007.09222), optionally with pAdaIN."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmseg.registry import MODELS
from mmseg.utils import SampleList, add_prefix
from torch import Tensor, nn
from torch.func import functional_call

from timm_stylenorm import style_layers, style_losses
from timm_stylenorm.functional.adaptation import domain_loss, soft_labels
from timm_stylenorm.layers import PermutedAdaIN
from timm_stylenorm.surgery.context import override_attr

from .base import UDASegmentor


class ClassDomainDiscriminator(nn.Module):
    """Maps features (N, C, H, W) to logits (N, 2K, H, W): first the K classes of the source, then those of the target.

    Two 3x3 convolutions with leaky ReLU (0.2) are followed by one convolution for each domain. Parameter names and
    initialisation (torch's default) are the same as in the authors' PixelDiscriminator.
    """

    def __init__(self, in_channels: int, num_classes: int, channels: Sequence[int] = (256, 128)) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in channels:
            layers += [nn.Conv2d(in_channels, width, 3, padding=1), nn.LeakyReLU(0.2, inplace=True)]
            in_channels = width
        self.D = nn.Sequential(*layers)
        self.cls1 = nn.Conv2d(in_channels, num_classes, 3, padding=1)
        self.cls2 = nn.Conv2d(in_channels, num_classes, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.D(x)
        return torch.cat([self.cls1(x), self.cls2(x)], 1)


@MODELS.register_module()
class FADA(UDASegmentor):
    """Trains a segmentor on the source, and its features to fool a discriminator of (domain, class).

        L   = CE(z_s / T, y) + adversarial_weight * domain_loss(D(f_t), t_t, source)
        L_D = (domain_loss(D(f_s), t_s, source) + domain_loss(D(f_t), t_t, target)) / 2,    t = min(softmax(z / T), cap)

    f are the features that the decode head reads, z its logits. L trains only the segmentor and L_D only the
    discriminator, so one backward pass of their sum computes the gradients of both. Each needs its own optimizer:
    `optim_wrapper=dict(constructor='AdversarialOptimWrapperConstructor', discriminator=dict(...))`.

    With `style=dict(type='padain', mode='source_target')`, source and target images pass the backbone in one batch,
    with the target resized to the source's size by nearest neighbour. The source takes over the target's styles, and
    only the source features are used further; the target's own forward pass has no pAdaIN. In the authors' code, this
    second pass gives the first half of the target images the style of the second half, which has no effect with their
    one image per process, and the stem's layer acts on the image itself. Batch norms in a decode head (the authors' has
    none) see source and target in turn.

    Args:
        *args: Arguments of `StyleNormEncoderDecoder`.
        discriminator: Arguments of `ClassDomainDiscriminator`; the numbers of channels and classes default to the
            head's.
        temperature: T, 1.8 in the authors' code; the segmentation loss uses it too, the test does not.
        cap: Upper limit of the probabilities in the soft labels.
        adversarial_weight: Weight of the adversarial loss, see above.
        feature_index: Index of the backbone's feature map that the discriminator sees; by default the (last) one that
            the decode head reads.
        **kwargs: Arguments of `StyleNormEncoderDecoder`.

    Raises:
        ValueError: A `recipe` is given, or `temperature` or `cap` is out of range.
    """

    def __init__(
        self,
        *args: object,
        discriminator: dict[str, object] | None = None,
        temperature: float = 1.8,
        cap: float = 0.9,
        adversarial_weight: float = 0.001,
        feature_index: int | None = None,
        **kwargs: object,
    ) -> None:
        if kwargs.get('recipe') is not None:
            raise ValueError('FADA is a training procedure of its own and does not go with `recipe`')
        if temperature <= 0 or not 0 < cap <= 1:
            raise ValueError(f'FADA: expected temperature > 0 and 0 < cap <= 1, got {temperature} and {cap}')
        super().__init__(*args, **kwargs)
        index, channels = self.decode_head.in_index, self.decode_head.in_channels
        if not isinstance(index, int):
            index, channels = index[-1], channels[-1]
        self.feature_index = index if feature_index is None else feature_index
        options = {'in_channels': channels, 'num_classes': self.num_classes, **(discriminator or {})}
        self.discriminator = ClassDomainDiscriminator(**options)
        self.temperature, self.cap, self.adversarial_weight = temperature, cap, adversarial_weight

    def adapt(self, inputs: Tensor, data_samples: SampleList, target: Tensor) -> dict[str, Tensor]:
        restylers = self._restylers()
        source = self._source_features(inputs, target, paired=bool(restylers))
        logits = self.logits(self.decode_head, source, inputs.shape[2:]) / self.temperature
        losses = add_prefix(self.decode_head.loss_by_feat(logits, data_samples), 'decode')
        if self.with_auxiliary_head:
            losses.update(self._auxiliary_head_forward_train(source, data_samples))
        labels = torch.cat([sample.gt_sem_seg.data for sample in data_samples])
        if restylers:  # in the style layers' batch, target images follow the source images
            labels = torch.cat([labels, torch.full_like(labels, self.decode_head.ignore_index)])
        terms = style_losses(self, labels, self.ignore_index)
        losses.update({f'style.{name}': value for name, value in terms.items()})
        with override_attr(restylers, 'enabled', False):
            features = self.extract_feat(target)
        style_losses(self)  # collected and dropped, so that none is left for the next step
        with torch.no_grad():
            target_logits = self.logits(self.decode_head, features, target.shape[2:]) / self.temperature
        return {**losses, **self._adversarial_losses(source, logits, features, target_logits)}

    def _adversarial_losses(
        self, source: Sequence[Tensor], logits: Tensor, target: Sequence[Tensor], target_logits: Tensor
    ) -> dict[str, Tensor]:
        source_labels, target_labels = soft_labels(logits, self.cap), soft_labels(target_logits, self.cap)
        f_s, f_t = source[self.feature_index], target[self.feature_index]
        fixed = {name: p.detach() for name, p in self.discriminator.named_parameters()}
        fooled = self._upsampled(functional_call(self.discriminator, fixed, (f_t,)), target_logits)
        told_s = self._upsampled(self.discriminator(f_s.detach()), logits)
        told_t = self._upsampled(self.discriminator(f_t.detach()), target_logits)
        return {
            'adversarial.loss_target': self.adversarial_weight * domain_loss(fooled, target_labels, 0),
            'discriminator.loss_source': 0.5 * domain_loss(told_s, source_labels, 0),
            'discriminator.loss_target': 0.5 * domain_loss(told_t, target_labels, 1),
        }

    def _upsampled(self, x: Tensor, like: Tensor) -> Tensor:
        return F.interpolate(x, like.shape[2:], mode='bilinear', align_corners=self.align_corners)

    def _source_features(self, inputs: Tensor, target: Tensor, paired: bool) -> Sequence[Tensor]:
        if not paired:
            return self.extract_feat(inputs)
        resized = F.interpolate(target, inputs.shape[2:], mode='nearest')  # as in the authors' code
        features = self.extract_feat(torch.cat([inputs, resized]))
        return [f[: len(inputs)] for f in features]

    def _restylers(self) -> list[PermutedAdaIN]:
        layers = [layer for _, layer in style_layers(self.backbone)]
        return [m for m in layers if isinstance(m, PermutedAdaIN) and m.mode == 'source_target']
