# DeepLabV2 as in the code of AdaptSegNet, MaxSquare and SNR: stride on the first 1x1 convolution, dilations 2 and 4
# from the first blocks on, pooling that rounds sizes up, BGR images minus a mean and no deviation, for the Caffe
# weights below, which those authors start from (SNR's README has the address; another file of these keys by
# --cfg-options model.backbone.init_cfg.checkpoint=FILE). Of the classifier's four dilations their code returns the sum
# of the first two. Torchvision's weights are for other colours and strides, and would have to recover from that.
_base_ = './deeplabv2_r101-d8.py'
model = dict(
    data_preprocessor=dict(mean=[104.00698793, 116.66876762, 122.67891434], std=[1.0, 1.0, 1.0], bgr_to_rgb=False),
    backbone=dict(
        type='DeepLabResNet',
        style='caffe',
        contract_dilation=False,
        init_cfg=dict(
            checkpoint='http://vllab.ucmerced.edu/ytsai/CVPR18/DeepLab_resnet_pretrained_init-f81d91e8.pth',
            prefix='Scale.',
        ),
    ),
    decode_head=dict(dilations=(6, 12)),
)
