"""Style layers: modules that restyle a feature map and know nothing of models."""

from .advbn import AdvBN
from .base import RandomStyleLayer, StyleLayer
from .bin import BatchInstanceNorm1d, BatchInstanceNorm2d, BatchInstanceNorm3d
from .cnsn import CrossNorm, SelfNorm
from .domainnorm import DomainNorm2d
from .dsu import DSU
from .dualbn import DualBatchNorm1d, DualBatchNorm2d, DualBatchNorm3d
from .ibn import IBN, IBN1d, IBN3d
from .mixing import EFDMix, MixStyle
from .norms import InstanceNorm, NormLayer
from .padain import PermutedAdaIN
from .snr import SNR
from .whitening import InstanceWhitening, SelectiveWhitening

__all__ = [
    'DSU',
    'IBN',
    'SNR',
    'AdvBN',
    'BatchInstanceNorm1d',
    'BatchInstanceNorm2d',
    'BatchInstanceNorm3d',
    'CrossNorm',
    'DomainNorm2d',
    'DualBatchNorm1d',
    'DualBatchNorm2d',
    'DualBatchNorm3d',
    'EFDMix',
    'IBN1d',
    'IBN3d',
    'InstanceNorm',
    'InstanceWhitening',
    'MixStyle',
    'NormLayer',
    'PermutedAdaIN',
    'RandomStyleLayer',
    'SelectiveWhitening',
    'SelfNorm',
    'StyleLayer',
]
