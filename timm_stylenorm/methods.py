"""The table of methods, from which names, registry entries, docs and tests are derived."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import Enum

from . import layers
from .errors import unknown
from .layers.companions import COMPANIONS

_OF_ADD_STYLE = ('type', 'sites', 'channel_dim', 'prefix_tokens', 'frozen')


class Placement(Enum):
    """What a layer may do at a site."""

    INSERT = 'follow a module'
    REPLACE = 'take the place of a norm layer'
    EITHER = 'follow a module or take the place of a norm layer'


class Kind(Enum):
    """What methods have in common: what they do, and what is left of it in evaluation."""

    MIX = 'mix or disturb the styles of training images', 'nothing: the plain network, at its cost'
    RESTORE = 'take the style off, and restore what the task needs of it', 'its layers'
    INSTANCE = 'instance norm in the place of some batch norm', 'other norms, at about their cost'
    WHITEN = 'instance norm, and a loss on covariances between channels', 'instance norms'
    GATE = 'gates that see the style', 'its layers'
    RECIPE = (
        'adversarial or borrowed styles, in more than one pass over each batch',
        'the plain network, with norms of choice',
    )
    OTHER = 'what others have registered', 'as they say'

    @property
    def does(self) -> str:
        return self.value[0]

    @property
    def in_evaluation(self) -> str:
        return self.value[1]


@dataclass(frozen=True)
class Method:
    """One row: a layer and where it goes.

    Attributes:
        layer: Layer class; its first argument is the number of channels.
        sites: Default sites, see `sites.find_sites`.
        summary: One line for the method table.
        paper: Authors, venue and arXiv number.
        placement: What the layer may do there.
        companions: What the layer may need besides itself: keys of `layers.companions.COMPANIONS`. Hosts provide it;
            otherwise the layer warns in training, and names the cure.
        recipe: In `RECIPE_STYLES`: the training procedure without which the layer does nothing, see `recipes`.
        layers_of: In `RECIPE_STYLES`: the method whose layers these are.
        norms_after: In `RECIPE_STYLES`: the method whose layers replace the batch norms that follow the layer.
        kind: What it has in common with other methods.
    """

    layer: type[layers.StyleLayer]
    sites: tuple[str, ...]
    summary: str
    paper: str
    placement: Placement = Placement.INSERT
    companions: tuple[str, ...] = ()
    recipe: str | None = None
    layers_of: str | None = None
    norms_after: str | None = None
    kind: Kind = Kind.OTHER

    @property
    def defaults(self) -> dict[str, object]:
        """The layer's keyword arguments and their defaults."""
        parameters = list(inspect.signature(self.layer).parameters.values())[1:]
        return {p.name: p.default for p in parameters}

    @property
    def needs_channels(self) -> bool:
        """Whether the layer must know the number of channels."""
        first = next(iter(inspect.signature(self.layer).parameters.values()))
        return first.default is inspect.Parameter.empty

    def check_kwargs(self, name: str, kwargs: Mapping[str, object]) -> None:
        """Raise a TypeError for a key of a style dict that neither the layer nor `add_style` accepts."""
        for key in kwargs:
            if key not in self.defaults and key not in _OF_ADD_STYLE:
                raise TypeError(unknown(f'argument of style method {name!r}:', key, [*self.defaults, *_OF_ADD_STYLE]))


METHODS: dict[str, Method] = {
    'padain': Method(
        layers.PermutedAdaIN,
        sites=('convs',),
        summary='images of a batch swap their channel statistics, with probability p per convolution, in training',
        paper='Nuriel et al., CVPR 2021, arXiv:2010.05785',
        kind=Kind.MIX,
    ),
    'snr': Method(
        layers.SNR,
        sites=('stage1', 'stage2', 'stage3'),
        summary='instance normalisation, then gated restitution of the channels that the task needs',
        paper='Jin et al., CVPR 2020 and arXiv:2101.00588',
        kind=Kind.RESTORE,
        companions=('classes',),
    ),
    'mixstyle': Method(
        layers.MixStyle,
        sites=('stage1', 'stage2'),
        summary='images of a batch mix their channel statistics with those of another image, in training',
        paper='Zhou et al., ICLR 2021, arXiv:2104.02008',
        kind=Kind.MIX,
        companions=('domains',),
    ),
    'efdmix': Method(
        layers.EFDMix,
        sites=('stage1', 'stage2'),
        summary='images of a batch mix their sorted values with those of another image, in training',
        paper='Zhang et al., CVPR 2022, arXiv:2203.07740',
        kind=Kind.MIX,
        companions=('domains',),
    ),
    'dsu': Method(
        layers.DSU,
        sites=('stem.conv', 'stem.pool', 'stage1', 'stage2', 'stage3', 'stage4'),
        summary='channel statistics are drawn anew around themselves, as far as they vary over the batch, in training',
        paper='Li et al., ICLR 2022, arXiv:2202.03958',
        kind=Kind.MIX,
    ),
    'crossnorm': Method(
        layers.CrossNorm,
        sites=('blocks',),
        summary='images of a batch, or crops of them, exchange their channel statistics, in training',
        paper='Tang et al., ICCV 2021, arXiv:2102.02811',
        kind=Kind.MIX,
    ),
    'selfnorm': Method(
        layers.SelfNorm,
        sites=('blocks',),
        summary='each channel is rescaled by a gate that sees its mean and deviation',
        paper='Tang et al., ICCV 2021, arXiv:2102.02811',
        kind=Kind.GATE,
    ),
    'ibn_a': Method(
        layers.IBN,
        sites=('stage1.norm1', 'stage2.norm1', 'stage3.norm1'),
        summary='instance norm for half of the channels of the first norm layer of every block',
        paper='Pan et al., ECCV 2018, arXiv:1807.09441',
        kind=Kind.INSTANCE,
        placement=Placement.REPLACE,
    ),
    'ibn_b': Method(
        layers.InstanceNorm,
        sites=('stem.norm', 'stage1.sum', 'stage2.sum'),
        summary='instance norm in the stem, and of the residual sum at the end of two stages',
        paper='Pan et al., ECCV 2018, arXiv:1807.09441',
        kind=Kind.INSTANCE,
        placement=Placement.EITHER,
    ),
    'bin': Method(
        layers.BatchInstanceNorm2d,
        sites=('batch_norms',),
        summary='a learnt gate for each channel between batch norm and instance norm',
        paper='Nam and Kim, NeurIPS 2018, arXiv:1805.07925',
        kind=Kind.INSTANCE,
        placement=Placement.REPLACE,
        companions=('gates',),
    ),
    'domainnorm': Method(
        layers.DomainNorm2d,
        sites=('batch_norms',),
        summary='instance norm, then L2 norm over the channels at each position',
        paper='Zhang et al., ECCV 2020, arXiv:1911.13287',
        kind=Kind.INSTANCE,
        placement=Placement.REPLACE,
    ),
    'irw': Method(
        layers.InstanceWhitening,
        sites=('stem.norm', 'stage1.sum', 'stage2.sum'),
        summary='instance norm, and a loss on the covariances between channels beyond a margin',
        paper='Choi et al., CVPR 2021, arXiv:2103.15597',
        kind=Kind.WHITEN,
        placement=Placement.EITHER,
    ),
    'isw': Method(
        layers.SelectiveWhitening,
        sites=('stem.norm', 'stage1.sum', 'stage2.sum'),
        summary='instance norm, and a loss on those covariances that react to photometric changes',
        paper='Choi et al., CVPR 2021, arXiv:2103.15597',
        kind=Kind.WHITEN,
        placement=Placement.EITHER,
        companions=('pairs',),
    ),
    'dual_bn': Method(
        layers.DualBatchNorm2d,
        sites=('batch_norms',),
        summary='statistics and weights of their own for adversarial or stylised images, which `dual_bn.routed` names',
        paper='Xie et al., CVPR 2020, arXiv:1911.09665',
        kind=Kind.RECIPE,
        placement=Placement.REPLACE,
    ),
}

# What recipes put into a model
RECIPE_STYLES: dict[str, Method] = {
    'advbn': Method(
        layers.AdvBN,
        sites=('stage1',),
        summary='the channel statistics of the batch that raise the loss most, and dual batch norms after them',
        paper='Shu et al., NeurIPS 2021, arXiv:2009.08965',
        kind=Kind.RECIPE,
        companions=('recipe',),
        recipe='advbn',
        norms_after='dual_bn',
    ),
    'debiased': replace(
        METHODS['dual_bn'],
        summary='images of a batch in the style of other ones, with labels of both, through batch norms of their own',
        paper='Li et al., ICLR 2021, arXiv:2010.05981',
        companions=('recipe',),
        recipe='debiased',
        layers_of='dual_bn',
    ),
}


ROWS: dict[str, Method] = {**METHODS, **RECIPE_STYLES}  # all that `add_style` accepts

Listener = Callable[[str, Method], None]
_listeners: list[Listener] = []


def for_every_method(listener: Listener) -> None:
    """Call a function with the name and the row of every method, now and for each method that is added later."""
    for name, row in METHODS.items():
        listener(name, row)
    _listeners.append(listener)


def add_method(name: str, row: Method) -> None:
    """Add a row to the table; see `timm_stylenorm.register_method`.

    Raises:
        ValueError: The name is taken or not an identifier, a companion is unknown, or the row's sites, placement and
            layer are not valid.
    """
    norm = isinstance(row.layer, type) and issubclass(row.layer, layers.NormLayer)
    if not name.isidentifier():
        raise ValueError(f'the name of a style method is an identifier, got {name!r}')
    if name in ROWS:
        raise ValueError(f'there is a style method {name!r} already: {ROWS[name].summary}')
    if not (isinstance(row.layer, type) and issubclass(row.layer, layers.StyleLayer)):
        raise ValueError(f'style method {name!r}: expected a subclass of StyleLayer, got {row.layer!r}')
    if row.placement is not Placement.INSERT and not norm:
        raise ValueError(
            f'style method {name!r}: what takes the place of a norm layer is a NormLayer, which {row.layer.__name__} '
            'is not'
        )
    if not row.sites or isinstance(row.sites, str):
        raise ValueError(f'style method {name!r}: expected a tuple of sites, got {row.sites!r}')
    for companion in row.companions:
        if companion not in COMPANIONS:
            raise ValueError(unknown('companion', companion, COMPANIONS))
    METHODS[name] = ROWS[name] = row
    for listener in _listeners:
        listener(name, row)


def list_methods() -> list[str]:
    """Names of all methods, in the order of the table."""
    return list(METHODS)


def get_method(name: str) -> Method:
    """The row of a method, or of the layers that a recipe puts into a model.

    Raises:
        ValueError: There is no such method; the message names the nearest.
    """
    if name not in ROWS:
        raise ValueError(unknown('style method', name, ROWS, 'stylenorm methods'))
    return ROWS[name]
