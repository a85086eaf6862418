# MaxSquare with image-wise weights and a second level: an auxiliary head on stage 3, which learns from the mean of both
# heads where one of them is surer than 0.95. Weights as in the authors' code: 0.09 of the target, 0.1 of the head.
_base_ = './deeplabv2_r101-d8_maxsquare_1xb1-30k_gtav2cityscapes-1280x720.py'
model = dict(
    target_weight=0.09,
    image_weighted=True,
    ratio=0.2,
    level_weight=0.1,
    threshold=0.95,
    auxiliary_head=dict(
        type='DeepLabV2Head',
        in_channels=1024,
        in_index=2,
        num_classes=19,
        align_corners=True,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=0.1),
    ),
)
