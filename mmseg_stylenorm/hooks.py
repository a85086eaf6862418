"""Hooks under the names that configs use; importing them registers them with mmengine."""

from timm_stylenorm.engine import CheckpointGuardHook, RNGStateHook

__all__ = ['CheckpointGuardHook', 'RNGStateHook']
