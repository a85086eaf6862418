# A second classifier on stage 3 for DeepLabV2, with a tenth of the loss (`--multi True` in MaxSquare's code).
second_level = dict(
    type='DeepLabV2Head',
    in_channels=1024,
    in_index=2,
    num_classes=19,
    dilations=(6, 12),
    align_corners=True,
    loss_decode=dict(type='CrossEntropyLoss', avg_non_ignore=True, loss_weight=0.1),
)
