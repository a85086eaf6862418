"""Style normalisation for timm models: `import timm_stylenorm`, then `timm.create_model('resnet50_padain')`."""

from . import host, patches
from .dual_bn import convert_dual_bn, split_dual_bn
from .methods import list_methods
from .models import register_method, register_variants
from .surgery.add import add_style, remove_style, set_domains, style_disabled, style_layers, style_parameters
from .surgery.listing import list_sites
from .surgery.losses import style_losses, summed_losses

__version__ = '0.1.0'

patches.install_patches(host.PATCHES)

__all__ = [
    'add_style',
    'convert_dual_bn',
    'list_methods',
    'list_sites',
    'register_method',
    'register_variants',
    'remove_style',
    'set_domains',
    'split_dual_bn',
    'style_disabled',
    'style_layers',
    'style_losses',
    'style_parameters',
    'summed_losses',
]
