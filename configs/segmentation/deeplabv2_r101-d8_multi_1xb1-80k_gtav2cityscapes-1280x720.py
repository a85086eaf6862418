# The same with the second level in training: what MaxSquare+IW+Multi starts from.
_base_ = ['./deeplabv2_r101-d8_1xb1-80k_gtav2cityscapes-1280x720.py', '../_base_/models/deeplabv2_second_level.py']
model = dict(auxiliary_head=_base_.second_level)
