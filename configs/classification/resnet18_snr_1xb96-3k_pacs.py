# PACS, ResNet-18 with SNR after stages 1 to 3 and the dual causality loss, weight 0.01 each (Jin et al.,
# arXiv:2101.00588, and the authors' code).
_base_ = './resnet18_1xb96-3k_pacs.py'
model = dict(style=dict(type='snr', sites=('stage1', 'stage2', 'stage3'), num_classes=7))
