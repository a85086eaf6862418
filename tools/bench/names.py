"""The names of the methods that benchmarks train."""

from timm_stylenorm.methods import METHODS, RECIPE_STYLES

# Dual batch norms alone are the baseline: nothing is routed through the second
TRAINED = [name for name in (*METHODS, *RECIPE_STYLES) if name != 'dual_bn']
KNOWN = ['baseline', 'adabn', *TRAINED]
