# MaxSquare with image-wise weights and a second level, DeepLabV2's head on stage 3.
_base_ = './deeplabv3plus_r18-small_maxsquare_1xb4-240_toy-streets.py'
model = dict(
    target_weight=0.09,
    image_weighted=True,
    auxiliary_head=dict(
        type='DeepLabV2Head',
        in_channels=128,
        in_index=2,
        num_classes=19,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=0.1),
    ),
)
