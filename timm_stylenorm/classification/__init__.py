"""Classification with mmengine's Runner: models and data from timm, style methods from here.

A config needs `custom_imports = dict(imports=['timm_stylenorm.classification'])`; everything is registered in
mmengine's root registries.
"""

from ..installed import check_owners, needing

check_owners('mmengine')
with needing(__name__):
    from ..evaluation.style_shifts import STYLE_SHIFTS, shift_image
    from .data import StreamEpochHook, TimmImages, TimmStream, timm_dataset
    from .domains import DomainBalancedSampler, DomainFolders, MultiDomainDataset
    from .idx import IdxImages
    from .metrics import TopK
    from .model import StyleNormClassifier
    from .optim import TimmOptimWrapperConstructor
    from .preprocessor import ClsPreprocessor
    from .transforms import AugSplits


__all__ = [
    'STYLE_SHIFTS',
    'AugSplits',
    'ClsPreprocessor',
    'DomainBalancedSampler',
    'DomainFolders',
    'IdxImages',
    'MultiDomainDataset',
    'StreamEpochHook',
    'StyleNormClassifier',
    'TimmImages',
    'TimmOptimWrapperConstructor',
    'TimmStream',
    'TopK',
    'shift_image',
    'timm_dataset',
]
