# MaxSquare with image-wise weights, by which rare classes of an image count more.
_base_ = './deeplabv2_r101-d8_maxsquare_1xb1-30k_gtav2cityscapes-1280x720.py'
model = dict(image_weighted=True, ratio=0.2)
