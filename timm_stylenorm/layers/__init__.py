"""Style layers: modules that restyle a feature map and know nothing of models."""

from .base import StyleLayer
from .cnsn import CrossNorm, SelfNorm
from .domainnorm import DomainNorm2d
from .dsu import DSU
from .mixing import EFDMix, MixStyle
from .norms import IBN, BatchInstanceNorm1d, BatchInstanceNorm2d, BatchInstanceNorm3d
from .padain import PermutedAdaIN
from .snr import SNR

__all__ = [
    'DSU',
    'IBN',
    'SNR',
    'BatchInstanceNorm1d',
    'BatchInstanceNorm2d',
    'BatchInstanceNorm3d',
    'CrossNorm',
    'DomainNorm2d',
    'EFDMix',
    'MixStyle',
    'PermutedAdaIN',
    'SelfNorm',
    'StyleLayer',
]
