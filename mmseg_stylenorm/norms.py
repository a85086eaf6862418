"""Style layers under `norm_cfg`, wherever mmcv and mmseg build norm layers: backbones, necks, heads.

    norm_cfg=dict(type='BIN', requires_grad=True)

They are called `bn` in their blocks, so that a checkpoint of the plain network loads: its weights, and the statistics
where the layer keeps any. `style=` replaces the norms of the backbone alone, and at the places of the papers.
The gates of BIN learn in groups of their own with `optim_wrapper=dict(constructor='GateOptimWrapperConstructor')`.
"""

from mmengine.registry import MODELS

from timm_stylenorm import layers

__all__ = ['BIN', 'IBN', 'BIN1d', 'BIN3d', 'DomainNorm']


@MODELS.register_module(name=['BIN', 'BIN2d'])
class BIN(layers.BatchInstanceNorm2d):
    """`timm_stylenorm.layers.BatchInstanceNorm2d` under mmcv's name for a batch norm."""

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
    """`timm_stylenorm.layers.IBN` for every norm of a network; `style='ibn_a'` puts it where the authors do."""

    _abbr_ = 'bn'


@MODELS.register_module()
class DomainNorm(layers.DomainNorm2d):
    """`timm_stylenorm.layers.DomainNorm2d`."""

    _abbr_ = 'bn'
