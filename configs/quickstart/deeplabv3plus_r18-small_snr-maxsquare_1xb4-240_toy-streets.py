# MaxSquare from the network with SNR (Jin et al., arXiv:2101.00588). First
# python tools/train.py quickstart/deeplabv3plus_r18-small_1xb8-240_toy-streets.py --style snr
_base_ = './deeplabv3plus_r18-small_maxsquare_1xb4-240_toy-streets.py'
load_from = 'work_dirs/deeplabv3plus_r18-small_1xb8-240_toy-streets_snr/iter_240.pth'
model = dict(style=dict(type='snr', sites=('stage1', 'stage2', 'stage3'), num_classes=19, dense=True))
