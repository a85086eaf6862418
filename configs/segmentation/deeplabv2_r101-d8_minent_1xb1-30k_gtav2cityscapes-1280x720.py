# MinEnt, the baseline of MaxSquare's authors: the entropy of the target in place of the maximum squares. They publish
# no script for it; weight and schedule are MaxSquare's.
_base_ = './deeplabv2_r101-d8_maxsquare_1xb1-30k_gtav2cityscapes-1280x720.py'
model = dict(target_loss='entropy')
