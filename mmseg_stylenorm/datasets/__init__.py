"""Data sets, samplers and transforms; importing this registers them with mmseg."""

from .class_uniform import Centroid, ClassUniformSampler, class_centroids
from .corruption import ImageCorruption
from .domains import MultiDomainDataset
from .geometry import RandomScaleCrop, ResizeHeight
from .layouts import LAYOUTS
from .loading import LoadTrainIds, ScoreAsShown
from .rare_class import RareClassDataset
from .sampling import ClassBalancedSampler, EndlessSampler, class_pixels
from .streets import GTA5Dataset, StreetsDataset
from .transforms import ColorJitter, RandomGaussianBlur
from .uda import UDADataset

__all__ = [
    'LAYOUTS',
    'Centroid',
    'ClassBalancedSampler',
    'ClassUniformSampler',
    'ColorJitter',
    'EndlessSampler',
    'GTA5Dataset',
    'ImageCorruption',
    'LoadTrainIds',
    'MultiDomainDataset',
    'RandomGaussianBlur',
    'RandomScaleCrop',
    'RareClassDataset',
    'ResizeHeight',
    'ScoreAsShown',
    'StreetsDataset',
    'UDADataset',
    'class_centroids',
    'class_pixels',
]
