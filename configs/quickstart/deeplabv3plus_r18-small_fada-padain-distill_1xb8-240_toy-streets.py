# The third stage with pAdaIN, on labels of the second stage with pAdaIN, see the config it inherits from.
_base_ = './deeplabv3plus_r18-small_fada-distill_1xb8-240_toy-streets.py'
model = dict(type='StyleNormEncoderDecoder', style=dict(type='padain', p=0.01))
train_dataloader = dict(dataset=dict(data_prefix=dict(seg_map_path='pseudo_labels/fada-padain')))
