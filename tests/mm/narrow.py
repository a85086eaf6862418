"""Networks with the names and the structure of the real ones at a tenth of their cost."""

RESNET = dict(layers=(2, 1, 1, 1), channels=(16, 24, 32, 48))  # arguments of timm's ResNets
