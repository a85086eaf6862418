"""Style methods for mmsegmentation: `custom_imports = dict(imports=['mmseg_stylenorm'])` registers everything.

Import it before reading a config that inherits from `mmseg::...` or `mmseg_stylenorm::...` (the tools do): it applies
the fixes of the hosts.
"""

from timm_stylenorm.runner.host import apply_host_fixes

from . import datasets, evaluation, heads, hooks, norms, plugins, registry, segmentors, uda
from .host import checkpoint_without_reentry

apply_host_fixes()
checkpoint_without_reentry()

__all__ = [
    'datasets',
    'evaluation',
    'heads',
    'hooks',
    'norms',
    'plugins',
    'registry',
    'segmentors',
    'uda',
]
