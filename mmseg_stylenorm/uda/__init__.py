"""Unsupervised domain adaptation of any encoder-decoder config; importing this registers the segmentors."""

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
