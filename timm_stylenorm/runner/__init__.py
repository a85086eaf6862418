"""What mmengine's Runner needs: `custom_imports = dict(imports=['timm_stylenorm.runner'])`.

Importing this registers hooks, optimizer wrappers and `StyleNorm`, and patches mmengine (`host.PATCHES`).
"""

from ..installed import check_owners, needing
from ..patches import install_patches

check_owners('mmengine')
with needing(__name__):
    from . import adabn, checkpoint, isw, optim, resume, stand_ins, styled
    from .host import PATCHES

install_patches(PATCHES)

__all__ = ['adabn', 'checkpoint', 'isw', 'optim', 'resume', 'stand_ins', 'styled']
