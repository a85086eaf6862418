"""Registers the hooks for mmengine's Runner: `custom_imports = dict(imports=['timm_stylenorm.hooks'])`."""

from .runner.adabn import AdaBNHook
from .runner.checkpoint import CheckpointGuardHook
from .runner.isw import ISWHook
from .runner.resume import RNGStateHook

__all__ = ['AdaBNHook', 'CheckpointGuardHook', 'ISWHook', 'RNGStateHook']
