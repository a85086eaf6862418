# ImageNet, ResNet-50 fine-tuned with AdvBN: the recipe of the authors (Shu et al., NeurIPS 2021, arXiv:2009.08965, and
# azshue/AdvBN). It starts from torchvision's weights, which timm has as tv_in1k; the layer is after stage 1, and what
# comes before it frozen; 6 ascent steps of 0.2 within 1.1; 20 epochs, SGD 0.9, lr 1e-3, wd 1e-4, lr x0.1 after 10 of
# them, batch 256 on 4 GPUs, SyncBN.
_base_ = './resnet50_4xb64-300e_imagenet.py'
model = dict(model='resnet50.tv_in1k', pretrained=True, recipe=dict(type='advbn', cut='stage1', steps=6))
sync_bn = 'torch'
optim_wrapper = dict(optimizer=dict(lr=1e-3))
param_scheduler = dict(step_size=10)
train_cfg = dict(max_epochs=20)
