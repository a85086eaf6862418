"""Data sets and their loading; importing this registers them with mmseg."""

from .corruption import ImageCorruption
from .domains import DomainConcatDataset
from .loading import LoadTrainIds, ScoreAsShown
from .rare_class import RareClassDataset
from .sampling import ClassBalancedSampler, EndlessSampler, class_pixels
from .streets import LAYOUTS, GTA5Dataset, StreetsDataset
from .transforms import ColorJitter, RandomGaussianBlur
from .uda import UDADataset

__all__ = [
    'LAYOUTS',
    'ClassBalancedSampler',
    'ColorJitter',
    'DomainConcatDataset',
    'EndlessSampler',
    'GTA5Dataset',
    'ImageCorruption',
    'LoadTrainIds',
    'RandomGaussianBlur',
    'RareClassDataset',
    'ScoreAsShown',
    'StreetsDataset',
    'UDADataset',
    'class_pixels',
]
