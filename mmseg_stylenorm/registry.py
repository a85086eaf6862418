"""The scope `mmseg_stylenorm`, a child of mmseg's registries: it finds all that they hold, which includes our modules.

mmengine uses this scope for everything that a config inherits from `_base_ = ['mmseg_stylenorm::...']`, and for
`mmengine.hub.get_model`.
"""

import mmseg.registry
from mmengine.registry import Registry

SCOPE = 'mmseg_stylenorm'
_LOCATIONS = ['mmseg.datasets', 'mmseg.engine', 'mmseg.evaluation', 'mmseg.models', 'mmseg.visualization', SCOPE]
for parent in [item for item in vars(mmseg.registry).values() if isinstance(item, Registry)]:
    if SCOPE not in parent.children:
        Registry(parent.name, parent=parent, scope=SCOPE, locations=_LOCATIONS)
