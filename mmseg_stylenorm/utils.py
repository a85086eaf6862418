"""The function that mmengine expects in a package whose configs it reads."""

import mmseg.utils
from mmengine.registry import init_default_scope as set_default_scope

from .registry import SCOPE


def register_all_modules(init_default_scope: bool = True) -> None:
    """Registers mmseg's modules; importing this package registers ours. `mmengine.hub.get_model` calls it.

    Args:
        init_default_scope: Makes `mmseg_stylenorm` the default scope.
    """
    mmseg.utils.register_all_modules(init_default_scope=False)
    if init_default_scope:
        set_default_scope(SCOPE)
