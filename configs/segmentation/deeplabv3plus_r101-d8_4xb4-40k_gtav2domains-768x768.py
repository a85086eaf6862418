# The same with ResNet-101 at output stride 8 and a stem of three 3x3 convolutions, as in RobustNet's scripts (Choi et
# al., CVPR 2021, arXiv:2103.15597). Differs: the ImageNet weights are those of mmseg, not of MIT-CSAIL.
_base_ = './deeplabv3plus_r50-d16_4xb4-40k_gtav2domains-768x768.py'
model = dict(
    pretrained='open-mmlab://resnet101_v1c',
    backbone=dict(type='ResNetV1c', depth=101, strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4)),
    decode_head=dict(dilations=(1, 12, 24, 36)),
)
