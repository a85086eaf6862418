# The learning rates that MaxSquare's and SNR's optimizer gives in effect. Their code lists each parameter of the stages
# three times, those of shortcuts four times, so that a step moves them three and four times: the backbone learns at
# 7.5e-4 and not at 2.5e-4, and the head is 3.3 times as fast as it and not 10 times. The stem's batch norm is fixed.
# Their momentum steps as often, and so forgets faster (0.9^3 a step); here it is 0.9. The nominal rates are
# --cfg-options optim_wrapper.paramwise_cfg.custom_keys.backbone.lr_mult=1 \
#     optim_wrapper.paramwise_cfg.custom_keys.downsample.lr_mult=1
_base_ = './deeplabv2_schedule.py'
custom_keys = {
    'backbone': dict(lr_mult=3.0),
    'downsample': dict(lr_mult=4.0),
    'backbone.conv1': dict(lr_mult=1.0),
    'backbone.bn1': dict(lr_mult=0.0),
}
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=custom_keys))
