"""What mmengine's Runner needs: `custom_imports = dict(imports=['timm_stylenorm.runner'])`.

Importing this registers hooks, optimizer wrappers and `StyleNorm`, and mends mmengine (`host.apply_host_fixes`).
"""

from . import adabn, checkpoint, isw, optim, resume, styled
from .host import apply_host_fixes

apply_host_fixes()

__all__ = ['adabn', 'apply_host_fixes', 'checkpoint', 'isw', 'optim', 'resume', 'styled']
