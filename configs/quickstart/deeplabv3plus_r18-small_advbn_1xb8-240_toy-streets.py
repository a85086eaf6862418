# The baseline with AdvBN (Shu et al., NeurIPS 2021, arXiv:2009.08965): the layer behind the backbone's first stage,
# dual batch norms above it, in the head too. From scratch, so that what comes before the cut trains; half of the
# authors' ascent steps, twice as long.
_base_ = './deeplabv3plus_r18-small_1xb8-240_toy-streets.py'
model = dict(
    type='StyleNormEncoderDecoder',
    recipe=dict(type='advbn', cut='stage1', steps=3, step=0.4, lower='trainable'),
)
