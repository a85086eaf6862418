# MaxSquare with image-wise weights and a second level, which learns from the mean of both heads where one of them is
# surer than 0.95. Settings of the authors' script: target images of 1280x640, weight 0.09, and 0.1 of it for the second
# level, from a network that was trained on the source with both. Theirs starts from the best of its checkpoints on
# Cityscapes' validation set, this from the last.
_base_ = [
    './deeplabv2_r101-d8_iw-maxsquare_1xb1-30k_gtav2cityscapes-1280x720.py',
    '../_base_/models/deeplabv2_second_level.py',
]
load_from = 'work_dirs/deeplabv2_r101-d8_multi_1xb1-80k_gtav2cityscapes-1280x720/iter_80000.pth'
model = dict(target_weight=0.09, level_weight=0.1, threshold=0.95, auxiliary_head=_base_.second_level)
target_pipeline = [
    *_base_.target_pipeline[:2],
    dict(**_base_.resize, scale=(1280, 640)),
    *_base_.target_pipeline[3:],
]
train_dataloader = dict(dataset=dict(target=dict(pipeline=target_pipeline)))
