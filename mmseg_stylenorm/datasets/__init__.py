"""Data sets and their loading; importing this registers them with mmseg."""

from .corruption import ImageCorruption
from .domains import DomainConcatDataset
from .layouts import LAYOUTS
from .loading import LoadTrainIds, ScoreAsShown
from .streets import GTA5Dataset, StreetsDataset
from .transforms import ColorJitter, RandomGaussianBlur
from .uda import UDADataset

__all__ = [
    'LAYOUTS',
    'ColorJitter',
    'DomainConcatDataset',
    'GTA5Dataset',
    'ImageCorruption',
    'LoadTrainIds',
    'RandomGaussianBlur',
    'ScoreAsShown',
    'StreetsDataset',
    'UDADataset',
]
