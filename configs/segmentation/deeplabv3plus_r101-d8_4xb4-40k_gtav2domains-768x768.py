# The same with ResNet-101 at output stride 8 and a stem of three 3x3 convolutions of 64, 64 and 128 channels, with
# MIT-CSAIL's ImageNet weights, as in RobustNet's scripts (Choi et al., CVPR 2021, arXiv:2103.15597). The authors have
# these rows; instance norms are at the first two norms of the stem:
#   baseline
#   IBN-Net  --style ibn_b "sites=['stem.1','stem.4','stage1.sum','stage2.sum']"
#   ISW      deeplabv3plus_r101-d8_isw_4xb4-40k_gtav2domains-768x768.py
_base_ = './deeplabv3plus_r50-d16_4xb4-40k_gtav2domains-768x768.py'
model = dict(
    pretrained='csail://resnet101',
    backbone=dict(type='ResNetV1c', depth=101, stem_channels=128, strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4)),
    decode_head=dict(dilations=(1, 12, 24, 36)),
)
