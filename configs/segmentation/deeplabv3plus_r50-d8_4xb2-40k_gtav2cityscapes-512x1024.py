# mmseg's DeepLabV3+ for Cityscapes, trained on GTA5 instead: the source-only baseline of domain generalisation.
# python tools/prepare_gta5.py data/gta5 && python tools/prepare_cityscapes.py data/cityscapes
# Methods are added by `--style NAME [KEY=VALUE ...]` and `--recipe NAME [KEY=VALUE ...]`, or in a config of one's own:
# those with padain, snr and advbn beside this one show how. Debiased training, which is for classifiers, works on the
# amplitudes of low frequencies (Yang & Soatto, CVPR 2020, arXiv:2004.05498):
# --recipe debiased "styliser={'type':'fourier','beta':0.01}"
_base_ = [
    'mmseg::deeplabv3plus/deeplabv3plus_r50-d8_4xb2-40k_cityscapes-512x1024.py',
    '../_base_/stylenorm_runtime.py',
]
train_pipeline = [  # mmseg's for Cityscapes, but labels are checked
    dict(type='LoadImageFromFile'),
    dict(type='LoadTrainIds'),
    dict(type='RandomResize', scale=(2048, 1024), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=(512, 1024), cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(
    dataset=dict(
        _delete_=True,  # drops the folders of Cityscapes
        type='GTA5Dataset',
        data_root='data/gta5',
        pipeline=train_pipeline,
    )
)
randomness = dict(seed=0)
