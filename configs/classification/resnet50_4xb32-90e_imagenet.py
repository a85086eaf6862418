# ImageNet, ResNet-50: the recipe of the CrossNorm and SelfNorm authors (Tang et al., ICCV 2021, arXiv:2102.02811; their
# imagenet.py and imagenet-scripts): SGD 0.9, wd 1e-4, batch 128, lr 0.1 * batch / 256, x0.1 after 30 and 60 of 90
# epochs, random resized crop 224 and flip. CrossNorm is on the images, once for a batch, with probability 0.5.
#   SN    --style selfnorm sites=blocks.sum
#   CN    --style crossnorm sites=input crop=both --cfg-options model.model=resnet50.tv_in1k model.pretrained=True
#   CNSN  --style crossnorm sites=input --style selfnorm sites=blocks.sum
#   with the consistency loss
#         --style crossnorm sites=input crop=both --style selfnorm sites=blocks.sum --recipe crossnorm_consistency
# The authors train CN from torchvision's weights. Differs: the last checkpoint counts, where theirs keeps the one that
# is best on the validation images; on several devices each draws for itself, where theirs draw for the whole batch.
_base_ = './resnet50_4xb64-300e_imagenet.py'
train_dataloader = dict(batch_size=32)
optim_wrapper = dict(optimizer=dict(lr=0.05))
param_scheduler = dict(step_size=30)
train_cfg = dict(max_epochs=90)
auto_scale_lr = dict(base_batch_size=128)
