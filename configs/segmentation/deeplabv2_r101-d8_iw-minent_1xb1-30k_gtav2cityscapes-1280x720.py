# MinEnt with image-wise weights (IW_entropy in the code of MaxSquare's authors, who publish no script for it).
_base_ = './deeplabv2_r101-d8_minent_1xb1-30k_gtav2cityscapes-1280x720.py'
model = dict(image_weighted=True, ratio=0.2)
