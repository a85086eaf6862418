# The baseline with ISW at the first two norms of the stem and after stages 1 and 2, as in the authors' scripts for
# ResNet-101, weight 0.6, 3 clusters (Choi et al., CVPR 2021, arXiv:2103.15597). Pairs of channels are chosen at step
# 4,000, about where the authors have trained for 5 epochs.
_base_ = './deeplabv3plus_r101-d8_4xb4-40k_gtav2domains-768x768.py'
model = dict(
    type='StyleNormEncoderDecoder', style=dict(type='isw', sites=('stem.1', 'stem.4', 'stage1.sum', 'stage2.sum'))
)
custom_hooks = [*_base_.custom_hooks, dict(type='ISWHook', begin=4000, batches=50)]
