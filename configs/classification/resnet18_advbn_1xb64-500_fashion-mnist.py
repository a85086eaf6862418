# Fashion-MNIST, ResNet-18 with AdvBN (Shu et al., NeurIPS 2021, arXiv:2009.08965) from scratch, so that what comes
# before the cut trains, too; half of the authors' ascent steps, twice as long. They fine-tune with a frozen lower part:
# --cfg-options model.init_checkpoint=CHECKPOINT model.recipe.lower=frozen optim_wrapper.optimizer.lr=0.005
_base_ = './resnet18_1xb64-500_fashion-mnist.py'
model = dict(recipe=dict(type='advbn', cut='stage1', steps=3, step=0.4, lower='trainable'))
