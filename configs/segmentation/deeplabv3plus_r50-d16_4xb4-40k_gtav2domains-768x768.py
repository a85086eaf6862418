# Domain generalisation from GTA5 after RobustNet (Choi et al., CVPR 2021, arXiv:2103.15597) and its code: DeepLabV3+
# with ResNet-50 at output stride 16, SGD at 0.01 with poly decay to zero, 40,000 steps of 4 x 4 crops of 768, SyncBN,
# an auxiliary loss of 0.4. Data, sampling and test: _base_/datasets/gtav2domains_768x768.py. Differs: the heads are
# mmseg's, whose ASPP has depthwise convolutions, with fewer parameters. The rows of the paper:
#   baseline
#   IBN-Net  --style ibn_b
#   IW       --style irw relax=0 loss_weight=0.8
#   IRW      --style irw
#   ISW      deeplabv3plus_r50-d16_isw_4xb4-40k_gtav2domains-768x768.py
# Others: `--style mixstyle`, `--style efdmix`, `--style dsu`, `--style padain`, `--recipe advbn`, and SNR as in its
# authors' training for segmentation, `--style snr num_classes=0`. IBN-a, IBN-Net's own choice for this task, is
# `--style ibn_a`; ImageNet weights are plain ones, where its authors have their own.
_base_ = [
    'mmseg::_base_/models/deeplabv3plus_r50-d8.py',
    'mmseg::_base_/schedules/schedule_40k.py',
    'mmseg::_base_/default_runtime.py',
    '../_base_/datasets/gtav2domains_768x768.py',
    '../_base_/stylenorm_runtime.py',
]
model = dict(
    data_preprocessor=dict(size=(768, 768)),
    pretrained='torchvision://resnet50',
    backbone=dict(type='ResNet', strides=(1, 2, 2, 1), dilations=(1, 1, 1, 2), contract_dilation=False),
    decode_head=dict(dilations=(1, 6, 12, 18)),
)
param_scheduler = [dict(type='PolyLR', eta_min=0.0, power=0.9, begin=0, end=40000, by_epoch=False)]
randomness = dict(seed=0)
