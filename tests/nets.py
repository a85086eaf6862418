"""Networks that have the structure of what they are named after, at a tenth of the cost."""

import timm

THIN = dict(channels=(64, 24, 32, 48))  # of timm's ResNets: as many layers, and no other shortcut in the first stage
SMALL = {
    'resnet': THIN,
    'densenet': dict(growth_rate=8, block_config=(2, 2, 2, 2)),
    'convnext': dict(depths=(2, 1, 1, 1), dims=(16, 24, 32, 48)),
    'vgg': dict(mlp_ratio=1 / 64),
    'swin': dict(img_size=64, window_size=2, embed_dim=24, depths=(1, 1, 1, 1), num_heads=(1, 2, 3, 4)),
    'vit': dict(img_size=64, depth=4, embed_dim=48, num_heads=3),
}


def small(name, **kwargs):
    """`timm.create_model`, narrower where the family lets it; other arguments win."""
    options = next((options for family, options in SMALL.items() if name.startswith(family)), {})
    return timm.create_model(name, **{**options, **kwargs})
