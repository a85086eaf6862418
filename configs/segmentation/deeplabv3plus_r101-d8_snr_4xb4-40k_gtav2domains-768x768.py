# The baseline with SNR behind the first three stages (Jin et al., arXiv:2101.00588), without the dual causality loss,
# which the authors' training for segmentation lacks; they have it in DeepLabV2, see deeplabv2_r101-d8_snr_1xb1-80k_*.
_base_ = './deeplabv3plus_r101-d8_4xb4-40k_gtav2domains-768x768.py'
model = dict(type='StyleNormEncoderDecoder', style=dict(type='snr', num_classes=0))
