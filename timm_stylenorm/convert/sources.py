"""The table of sources whose checkpoints can be read and written.

To add a source, add a row. If its rules alone do not identify a source, `marker` names keys that it must have.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from ..errors import unknown
from .rules import Layout, Rule, drop, prefixed, same

State = Mapping[str, Tensor]
Unused = Callable[[State], dict[str, tuple[Tensor, str]]]


@dataclass(frozen=True)
class Source:
    """One row.

    Attributes:
        title: Whose checkpoints these are.
        rules: One for each kind of key; the first that fits counts.
        marker: Regular expressions; a checkpoint of this source has a key for each.
        method: The style method that the keys belong to; None for none.
        lacks: What an export cannot provide; '' for nothing.
        unused: Takes the authors' state dict, and returns what else their network has and never runs: key -> value and
            what that is.
        dual: The method adds auxiliary batch norms, and evaluation computes what the plain network does.
        any_network: Its rules fit any key, so that it knows no keys if its marks are missing.
        hint: What the weights need besides fitting keys.
        wrapped: Prefixes that identify the source, which knows every key below one of them.
    """

    title: str
    rules: tuple[Rule, ...]
    marker: tuple[str, ...]
    method: str | None = None
    lacks: str = ''
    unused: Unused = lambda state: {}
    dual: bool = False
    any_network: bool = False
    hint: str = ''
    wrapped: tuple[str, ...] = ()

    def find(self, key: str, layout: Layout, back: bool = False) -> tuple[Rule, str] | None:
        """The rule for a key, and the key on the other side ('' for none)."""
        for rule in self.rules:
            name = rule.rename(key, layout, back)
            if name is not None:
                return rule, name
        return None

    def fitting(self, keys: Iterable[str], back: bool = False) -> list[str]:
        """The keys that this source knows."""
        keys = list(keys)
        if self.any_network and not self.marked(keys):
            return []
        layout = Layout.of(keys, host(keys) if back else 'timm')
        return [key for key in keys if self.find(key, layout, back)]

    def marked(self, keys: Iterable[str]) -> bool:
        """Whether the keys have the marks that distinguish this source from others."""
        keys = list(keys)
        return not self.wrapped and all(any(re.fullmatch(marker, key) for key in keys) for marker in self.marker)


def host(keys: Iterable[str]) -> str:
    """Whose names our keys have: 'mmseg' (torchvision's too) or 'timm'."""
    return 'mmseg' if any('.relu.style.' in key for key in keys) else 'timm'


def _stage_4_of_snr(state: State) -> dict[str, tuple[Tensor, str]]:
    narrow = state.get('style_reid_laye1.fc1.weight')
    norms = [v for k, v in state.items() if re.fullmatch(r'layer4\.\d+\.bn\d\.weight', k)]
    if narrow is None or not norms:
        return {}
    like, c = norms[-1], len(norms[-1])
    hidden = max(c * narrow.shape[0] // narrow.shape[1], 1)
    found = {'IN4.weight': like.new_ones(c), 'IN4.bias': like.new_zeros(c)}
    for layer, shape in (('fc1', (hidden, c, 1, 1)), ('fc2', (c, hidden, 1, 1))):
        found[f'style_reid_laye4.{layer}.weight'] = like.new_zeros(shape)
        found[f'style_reid_laye4.{layer}.bias'] = like.new_zeros(shape[0])
    return {key: (value, 'ones and zeros') for key, value in found.items()}


def _before_the_cut(state: State) -> dict[str, tuple[Tensor, str]]:
    clean = [key for key in state if key.startswith('feature_x.') and '.clean_' in key]
    return {
        key.replace('.clean_', '.adv_'): (state[key].clone(), 'a copy of clean_' + ('norm' if 'norm' in key else 'bn'))
        for key in clean
    }


RESNET = [
    *same('conv1.weight', 'bn1.{n}', 'layer{s}.{b}.conv{k}.weight', 'layer{s}.{b}.bn{k}.{n}'),
    *same('layer{s}.{b}.downsample.0.weight', 'layer{s}.{b}.downsample.1.{n}'),
]
CLASSIFIER = same('fc.{p}', head=True)
NO_CLASSIFIER = Rule(None, 'fc.{p}', 'the authors have no image classifier there', head=True)
_LAYER = 'features.denseblock{s}.denselayer{b}'
DENSENET = [
    *same('features.conv0.weight', 'features.norm{k}.{n}', 'features.transition{s}.conv.weight'),
    *same('features.transition{s}.norm.{n}', f'{_LAYER}.conv{{k}}.weight', f'{_LAYER}.norm{{k}}.{{n}}'),
    Rule(f'{_LAYER}.conv.{{k}}.weight', f'{_LAYER}.conv{{k}}.weight'),  # before torch 0.4
    Rule(f'{_LAYER}.norm.{{k}}.{{n}}', f'{_LAYER}.norm{{k}}.{{n}}'),
    *same('classifier.{p}', head=True),
]
_NO_BIAS = "zeros, and the authors' layer has no bias"
SE = [
    Rule('layer{s}.{b}.se.fc.0.weight', 'layer{s}.{b}.se.fc1.weight', dims=(2, 4)),
    Rule('layer{s}.{b}.se.fc.2.weight', 'layer{s}.{b}.se.fc2.weight', dims=(2, 4)),
    Rule('layer{s}.{b}.se.fc.0.bias', 'layer{s}.{b}.se.fc1.bias', _NO_BIAS, unless_zero=True),
    Rule('layer{s}.{b}.se.fc.2.bias', 'layer{s}.{b}.se.fc2.bias', _NO_BIAS, unless_zero=True),
]
_NO_STATISTICS = 'instance norm keeps no statistics; releases of torch before 0.4 wrote some that nothing reads'
IBN = [
    *same('layer{s}.{b}.bn{k}.IN.{p}', 'layer{s}.{b}.bn{k}.BN.{n}'),
    *same(f'{_LAYER}.norm{{k}}.IN.{{p}}', f'{_LAYER}.norm{{k}}.BN.{{n}}'),
    Rule(f'{_LAYER}.norm.{{k}}.IN.{{p}}', f'{_LAYER}.norm{{k}}.IN.{{p}}'),
    Rule(f'{_LAYER}.norm.{{k}}.BN.{{n}}', f'{_LAYER}.norm{{k}}.BN.{{n}}'),
    Rule('layer{s}.{b}.IN.{p}', 'layer{s}.{b}.{act}.style.ibn_b.{p}'),
    drop('{x}.IN.{r}', _NO_STATISTICS),
]
_UNUSED = 'the authors create it for stage 4 and never run it'
SNR_HEADS = [Rule('fc{s}.{p}', 'layer{s}.{last}.style.snr.head.{p}', rank=1)]
SNR = [
    drop('IN4.{p}', _UNUSED, rank=2),
    drop('style_reid_laye4.fc{k}.{p}', _UNUSED, rank=3),
    drop('IN{s}.{r}', _NO_STATISTICS, rank=2),
    Rule('IN{s}.{p}', 'layer{s}.{last}.style.snr.{p}', rank=2),
    Rule('style_reid_laye{s}.fc{k}.{p}', 'layer{s}.{last}.style.snr.fc{k}.{p}', rank=3),
]
_FROZEN = 'the authors create it before the cut and never run it'
ADVBN = [
    Rule('feature_x.0.weight', 'conv1.weight'),
    Rule('feature_x.1.{n}', 'bn1.{n}'),
    drop('feature_x.{x}.adv_bn{k}.{n}', _FROZEN),
    drop('feature_x.{x}.adv_bn.{n}', _FROZEN),
    Rule('{home}{b}.conv{k}.weight', 'layer{s}.{b}.conv{k}.weight'),
    Rule('{home}{b}.clean_bn{k}.{n}', 'layer{s}.{b}.bn{k}.{n}'),
    Rule('{home}{b}.adv_bn{k}.{n}', 'layer{s}.{b}.bn{k}.aux_bn.{n}'),
    Rule('{home}{b}.downsample.conv.weight', 'layer{s}.{b}.downsample.0.weight'),
    Rule('{home}{b}.downsample.clean_bn.{n}', 'layer{s}.{b}.downsample.1.{n}'),
    Rule('{home}{b}.downsample.adv_bn.{n}', 'layer{s}.{b}.downsample.1.aux_bn.{n}'),
    Rule('head.fc.{p}', 'fc.{p}', head=True),
    Rule('feature_x.conv0.weight', 'features.conv0.weight'),
    Rule('feature_x.norm0.{n}', 'features.norm0.{n}'),
    drop('feature_x.{x}.adv_norm{k}.{n}', _FROZEN),
    drop('feature_x.{x}.adv_norm.{n}', _FROZEN),
    Rule('{dense}{b}.conv{k}.weight', f'{_LAYER}.conv{{k}}.weight'),
    Rule('{dense}{b}.clean_norm{k}.{n}', f'{_LAYER}.norm{{k}}.{{n}}'),
    Rule('{dense}{b}.adv_norm{k}.{n}', f'{_LAYER}.norm{{k}}.aux_bn.{{n}}'),
    Rule('{way}conv.weight', 'features.transition{s}.conv.weight'),
    Rule('{way}clean_norm.{n}', 'features.transition{s}.norm.{n}'),
    Rule('{way}adv_norm.{n}', 'features.transition{s}.norm.aux_bn.{n}'),
    Rule('head.clean_norm5.{n}', 'features.norm5.{n}'),
    Rule('head.adv_norm5.{n}', 'features.norm5.aux_bn.{n}'),
    Rule('head.classifier.{p}', 'classifier.{p}', head=True),
]
_GATE = 'layer{s}.{b}.cnsn.selfnorm.{g}'


def _selfnorm(place: str) -> list[Rule]:
    ours = f'layer{{s}}.{{b}}.{place}.style.selfnorm.{{g}}'
    return [Rule(f'{_GATE}_fc.weight', f'{ours}_fc.weight'), Rule(f'{_GATE}_bn.{{n}}', f'{ours}_bn.{{n}}')]


AUXILIARY = same('bn1.aux_bn.{n}', 'layer{s}.{b}.bn{k}.aux_bn.{n}', 'layer{s}.{b}.downsample.1.aux_bn.{n}')
_DEEPLAB = "a head, which a backbone has not; mmseg_stylenorm's DeepLabV2Head has the same keys after its own name"
_SNR_KEYS = (r'IN[1-3]\.weight', r'style_reid_laye[1-3]\.fc1\.weight')
_GATE_MARK = r'layer\d\.\d+\.cnsn\.selfnorm\.g_fc\.weight'
_STEM = r'conv1\.weight|features\.conv0\.weight'

# The most specific come first: the first source that knows every key, and whose marks are there, is taken.
SOURCES: dict[str, Source] = {
    'ibn-net': Source(
        'IBN-Net (resnet, resnext, se_resnet and densenet; ibn_a and ibn_b)',
        (*RESNET, *CLASSIFIER, *DENSENET, *SE, *IBN),
        (_STEM, r'.*\.IN\.weight'),
        method='ibn',
    ),
    'selfnorm': Source(
        'SelfNorm and CNSN (resnet, with or without ibn_b); of CrossNorm nothing is saved',
        (*RESNET, *CLASSIFIER, *_selfnorm('{gate}'), *IBN),
        (r'conv1\.weight', _GATE_MARK),
        method='selfnorm',
        hint='the file does not say where in the blocks SelfNorm is: taken to be after the sum, as in the released '
        'networks but for those with ibn_b. For one with it before the sum, name the source selfnorm-residual',
    ),
    'selfnorm-residual': Source(
        'SelfNorm before the residual sums (resnet)',
        (*RESNET, *CLASSIFIER, *_selfnorm('{end}'), *IBN),
        (r'conv1\.weight', _GATE_MARK),
        method='selfnorm',
    ),
    'snr': Source(
        'SNR, classification (resnet18, with or without the heads of its dual causality loss)',
        (*RESNET, *CLASSIFIER, *SNR_HEADS, *SNR),
        (_STEM, *_SNR_KEYS),
        method='snr',
        unused=_stage_4_of_snr,
    ),
    'snr-deeplab': Source(
        'SNR, segmentation (DeepLabV2 with resnet101)',
        (*RESNET, *(drop(f'layer{i}.{{x}}', _DEEPLAB, rank=1) for i in (5, 6)), NO_CLASSIFIER, *SNR),
        (_STEM, *_SNR_KEYS),
        method='snr',
        lacks="layer5 and layer6, the classifiers, which are no part of a backbone: strict loading in the authors' "
        'code will ask for them',
        hint="the network has its stride on the first 1x1 convolution, as mmseg's style='caffe', dilation 2 and 4 in "
        'all blocks of stages 3 and 4, and ceil_mode=True in its pooling (mmseg: backbone.maxpool.ceil_mode = True)',
    ),
    'advbn': Source(
        'AdvBN (resnet18 to resnet152 and densenets, cut after stage 1, 2 or 3)',
        tuple(ADVBN),
        (r'feature_x\.(0|conv0)\.weight', r'head\.(layer4_0|denseblock[1-3]\.denselayer2)\.adv_(bn|norm)1\.weight'),
        method='advbn',
        dual=True,
        unused=_before_the_cut,
    ),
    'debiased': Source(
        'shape-texture debiased training (resnet, resnext)',
        (*RESNET, *AUXILIARY, *CLASSIFIER),
        (_STEM, r'bn1\.aux_bn\.weight'),
        method='debiased',
        dual=True,
    ),
    'bin': Source(
        "Batch-Instance Normalization (any network of the authors' code)",
        tuple(same('{x}.gate', '{x}.{n}')),
        (r'.*\.gate', r'.*\.running_mean'),
        method='bin',
        any_network=True,
        hint='the authors have CIFAR networks of their own; keys of `gate` and of batch norm are those of our layer',
    ),
    'fada': Source(
        'pAdaIN in FADA: the feature extractor (resnet101)',
        (*prefixed('backbone.', RESNET), NO_CLASSIFIER),
        (r'backbone\.conv1\.weight',),
        lacks='the classifier of the segmentation, which FADA keeps apart',
        hint="the network has dilation 1 and 2 in the first blocks of stages 3 and 4: mmseg's contract_dilation=True",
    ),
    'torchvision': Source(
        'torchvision and everything with its names (resnet, resnext, wide_resnet, densenet), pAdaIN among it',
        (*RESNET, *CLASSIFIER, *DENSENET),
        (_STEM,),
    ),
    'runner': Source(
        "this package: a timm model of any style, as mmengine's Runner saves it",
        tuple(same('{x}')),
        (),
        method='own',
        dual=True,
        wrapped=('net.', 'backbone.timm_model.'),
    ),
}
ALIASES = {
    'padain': 'torchvision',
    'crossnorm': 'torchvision',
    'cnsn': 'selfnorm',
    'ibn': 'ibn-net',
    'ibnnet': 'ibn-net',
}


def get_source(name: str) -> tuple[str, Source]:
    """The name and the row of a source, by its name or an alias.

    Raises:
        ValueError: There is no such source; the message names the nearest.
    """
    name = ALIASES.get(name, name)
    if name not in SOURCES:
        raise ValueError(unknown('source of checkpoints', name, [*SOURCES, *ALIASES]))
    return name, SOURCES[name]
