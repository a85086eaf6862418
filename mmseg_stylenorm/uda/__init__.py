"""Unsupervised domain adaptation: segmentors around any segmentor's config; importing this registers them."""

from .base import UDADataPreProcessor, UDASegmentor
from .fada import FADA, ClassDomainDiscriminator
from .maxsquare import MaxSquareUDA
from .optim import AdversarialOptimWrapperConstructor, JointOptimWrapperDict
from .pseudo_labels import LoadSoftLabels, PackSoftLabels, SelfDistillation

__all__ = [
    'FADA',
    'AdversarialOptimWrapperConstructor',
    'ClassDomainDiscriminator',
    'JointOptimWrapperDict',
    'LoadSoftLabels',
    'MaxSquareUDA',
    'PackSoftLabels',
    'SelfDistillation',
    'UDADataPreProcessor',
    'UDASegmentor',
]
