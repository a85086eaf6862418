"""Style layers: modules that restyle a feature map and know nothing of models."""

from .base import StyleLayer
from .padain import PermutedAdaIN
from .snr import SNR

__all__ = ['SNR', 'PermutedAdaIN', 'StyleLayer']
