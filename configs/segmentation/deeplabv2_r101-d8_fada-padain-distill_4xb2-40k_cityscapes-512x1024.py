# The third stage with pAdaIN, on soft labels of the second stage with pAdaIN, see the config it inherits from.
_base_ = './deeplabv2_r101-d8_fada-distill_4xb2-40k_cityscapes-512x1024.py'
model = dict(style=dict(type='padain', p=0.01))
train_dataloader = dict(dataset=dict(data_prefix=dict(seg_map_path='pseudo_labels/fada-padain')))
