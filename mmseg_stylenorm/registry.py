"""The scope `mmseg_stylenorm`: below mmseg's registries, so that it finds all that they hold, which is ours as well.

mmengine gives the scope to whatever a config takes over from `_base_ = ['mmseg_stylenorm::...']`, and to
`mmengine.hub.get_model`.
"""

import mmseg.registry
from mmengine.registry import Registry

SCOPE = 'mmseg_stylenorm'
_LOCATIONS = ['mmseg.datasets', 'mmseg.engine', 'mmseg.evaluation', 'mmseg.models', 'mmseg.visualization', SCOPE]
for parent in [item for item in vars(mmseg.registry).values() if isinstance(item, Registry)]:
    if SCOPE not in parent.children:
        Registry(parent.name, parent=parent, scope=SCOPE, locations=_LOCATIONS)
