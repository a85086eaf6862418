# The baseline with BIN for all batch norms of the backbone, its gates in parameter groups of their own: ten times the
# learning rate, no weight decay, kept in [0, 1] (Nam and Kim, NeurIPS 2018, arXiv:1805.07925).
_base_ = './deeplabv3plus_r18-small_1xb8-240_toy-streets.py'
model = dict(type='StyleNormEncoderDecoder', style=dict(type='bin'))
optim_wrapper = dict(constructor='GateOptimWrapperConstructor')
