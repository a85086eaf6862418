"""Unsupervised domain adaptation: segmentors around any segmentor's config; importing this registers them."""

from .base import UDADataPreProcessor, UDASegmentor
from .fada import FADA, ClassDomainDiscriminator
from .maxsquare import MaxSquareUDA
from .optim import AdversarialOptimWrapperConstructor, JointOptimWrapperDict

__all__ = [
    'FADA',
    'AdversarialOptimWrapperConstructor',
    'ClassDomainDiscriminator',
    'JointOptimWrapperDict',
    'MaxSquareUDA',
    'UDADataPreProcessor',
    'UDASegmentor',
]
