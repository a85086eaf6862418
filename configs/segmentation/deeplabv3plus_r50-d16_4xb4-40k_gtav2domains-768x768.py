# Domain generalisation from GTA5 after RobustNet (Choi et al., CVPR 2021, arXiv:2103.15597) and its code: DeepLabV3+
# with ResNet-50 at output stride 16, SGD at 0.01 with poly decay to zero, 40,000 steps of 4 x 4 crops of 768, SyncBN,
# an auxiliary loss of 0.4; whole images, at one scale, of every domain in one test. The heads are mmseg's. Differs: all
# of GTA5 is trained on unless --cfg-options train_dataloader.dataset.ann_file=FILE names the official split; the jitter
# is the nearest that mmseg has; neither Gaussian blur nor class-uniform sampling. docs/datasets.md says how the data
# are prepared. Methods are added by `--style NAME` (ImageNet weights are plain ones, where the authors of IBN-Net have
# their own) and `--recipe advbn`; SNR as in its authors' training for segmentation is `--style snr num_classes=0`.
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
    backbone=dict(type='ResNet', strides=(1, 2, 2, 1), dilations=(1, 1, 1, 2)),
    decode_head=dict(dilations=(1, 6, 12, 18)),
)
jitter = dict(
    type='PhotoMetricDistortion',
    brightness_delta=102,
    contrast_range=(0.6, 1.4),
    saturation_range=(0.6, 1.4),
    hue_delta=18,
)
train_dataloader = dict(dataset=dict(pipeline=[*_base_.train_pipeline[:-2], jitter, dict(type='PackSegInputs')]))
param_scheduler = [dict(type='PolyLR', eta_min=0.0, power=0.9, begin=0, end=40000, by_epoch=False)]
randomness = dict(seed=0)
