# The baseline with DomainNorm for all batch norms of the backbone (Zhang et al., ECCV 2020, arXiv:1911.13287).
_base_ = './deeplabv3plus_r18-small_1xb8-240_toy-streets.py'
model = dict(type='StyleNormEncoderDecoder', style=dict(type='domainnorm'))
