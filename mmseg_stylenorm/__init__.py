"""Style methods for mmsegmentation: `custom_imports = dict(imports=['mmseg_stylenorm'])` registers everything.

Import it, as the tools do, before reading a config that inherits from `mmseg::...` or `mmseg_stylenorm::...`. The
import patches mmengine and mmseg; `timm_stylenorm.runner.host` and `mmseg_stylenorm.host` list the patches.
"""

from timm_stylenorm.installed import check_owners, needing
from timm_stylenorm.patches import install_patches

check_owners('mmengine', 'mmcv', 'mmseg')
with needing(__name__):
    from . import backbones, datasets, evaluation, heads, norms, plugins, registry, segmentors, uda, weights
    from .host import PATCHES

install_patches(PATCHES)

__all__ = [
    'backbones',
    'datasets',
    'evaluation',
    'heads',
    'norms',
    'plugins',
    'registry',
    'segmentors',
    'uda',
    'weights',
]
