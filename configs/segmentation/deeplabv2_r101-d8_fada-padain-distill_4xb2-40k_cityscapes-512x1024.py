# The third stage with pAdaIN, on labels of the second stage with pAdaIN, twice as long as plain FADA's: 40,000 steps of
# a schedule of 41,250, as in pAdaIN's code (onuriel/PermutedAdaIN, FADA/configs). See the config it inherits from.
_base_ = './deeplabv2_r101-d8_fada-distill_4xb2-20k_cityscapes-512x1024.py'
model = dict(type='StyleNormEncoderDecoder', style=dict(type='padain', p=0.01))
train_dataloader = dict(dataset=dict(data_prefix=dict(seg_map_path='pseudo_labels/fada-padain')))
param_scheduler = [dict(type='PolyLR', eta_min=0.0, power=0.9, begin=0, end=41250, by_epoch=False)]
train_cfg = dict(max_iters=40000)
