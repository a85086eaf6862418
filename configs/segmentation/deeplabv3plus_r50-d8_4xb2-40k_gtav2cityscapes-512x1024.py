# mmseg's DeepLabV3+ for Cityscapes, trained on GTA5 instead: the source-only baseline of domain generalisation.
# python tools/prepare_gta5.py data/gta5 && python tools/prepare_cityscapes.py data/cityscapes
_base_ = [
    'mmseg::deeplabv3plus/deeplabv3plus_r50-d8_4xb2-40k_cityscapes-512x1024.py',
    '../_base_/stylenorm_runtime.py',
]
train_dataloader = dict(
    dataset=dict(
        type='GTA5Dataset',
        data_root='data/gta5',
        data_prefix=dict(img_path='images', seg_map_path='labels'),
    )
)
randomness = dict(seed=0)
