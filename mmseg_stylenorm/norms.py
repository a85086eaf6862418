"""Style layers under `norm_cfg`, wherever mmcv and mmseg build norm layers: backbones, necks, heads.

    norm_cfg=dict(type='BIN', requires_grad=True)

The layers are named `bn` in their blocks, so that a checkpoint of the plain network loads: its weights and, if the
layer has any, its running statistics. `style=`, in contrast, replaces norms only in the backbone, at the places that
the papers choose. With `optim_wrapper=dict(constructor='GateOptimWrapperConstructor')` the gates of BIN get parameter
groups of their own.
"""

from mmengine.registry import MODELS

from timm_stylenorm import layers

__all__ = ['BIN', 'IBN', 'BIN1d', 'BIN3d', 'DomainNorm']


@MODELS.register_module(name=['BIN', 'BIN2d'])
class BIN(layers.BatchInstanceNorm2d):
    """`timm_stylenorm.layers.BatchInstanceNorm2d` with the abbreviation that mmcv uses for batch norms."""

    _abbr_ = 'bn'


@MODELS.register_module()
class BIN1d(layers.BatchInstanceNorm1d):
    """The same for (N, C, L)."""

    _abbr_ = 'bn'


@MODELS.register_module()
class BIN3d(layers.BatchInstanceNorm3d):
    """The same for (N, C, D, H, W)."""

    _abbr_ = 'bn'


@MODELS.register_module()
class IBN(layers.IBN):
    """`timm_stylenorm.layers.IBN` for every norm of a network; `style='ibn_a'` puts it only where the authors do."""

    _abbr_ = 'bn'


@MODELS.register_module()
class DomainNorm(layers.DomainNorm2d):
    """`timm_stylenorm.layers.DomainNorm2d`."""

    _abbr_ = 'bn'
