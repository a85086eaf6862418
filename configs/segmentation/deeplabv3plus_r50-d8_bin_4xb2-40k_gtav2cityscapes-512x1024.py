# The baseline with BIN for all batch norms of the backbone, its gates in parameter groups of their own: ten times the
# learning rate, no weight decay, kept in [0, 1] (Nam and Kim, NeurIPS 2018, arXiv:1805.07925).
_base_ = './deeplabv3plus_r50-d8_4xb2-40k_gtav2cityscapes-512x1024.py'
model = dict(type='StyleNormEncoderDecoder', style=dict(type='bin'))
optim_wrapper = dict(constructor='GateOptimWrapperConstructor')
