"""Hooks under the names that configs use; importing them registers them with mmengine."""

from timm_stylenorm.engine import CheckpointGuardHook, GateOptimWrapperConstructor, ISWHook, RNGStateHook
from timm_stylenorm.hooks import AdaBNHook

__all__ = ['AdaBNHook', 'CheckpointGuardHook', 'GateOptimWrapperConstructor', 'ISWHook', 'RNGStateHook']
