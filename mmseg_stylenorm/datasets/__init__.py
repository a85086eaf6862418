"""Data sets and their loading; importing this registers them with mmseg."""

from .gta5 import GTA5Dataset
from .loading import LoadTrainIds

__all__ = ['GTA5Dataset', 'LoadTrainIds']
