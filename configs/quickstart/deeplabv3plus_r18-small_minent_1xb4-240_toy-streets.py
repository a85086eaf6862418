# MinEnt: the entropy of the target in place of MaxSquare's maximum squares.
_base_ = './deeplabv3plus_r18-small_maxsquare_1xb4-240_toy-streets.py'
model = dict(target_loss='entropy')
