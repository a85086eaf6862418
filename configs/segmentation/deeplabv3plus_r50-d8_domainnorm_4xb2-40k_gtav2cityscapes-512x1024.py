# The baseline with DomainNorm for all batch norms of the backbone (Zhang et al., ECCV 2020, arXiv:1911.13287). Its
# maps are much smaller than batch norm's: the ImageNet weights of the baseline are only a start.
_base_ = './deeplabv3plus_r50-d8_4xb2-40k_gtav2cityscapes-512x1024.py'
model = dict(type='StyleNormEncoderDecoder', style=dict(type='domainnorm'))
