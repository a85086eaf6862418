"""Separate optimizers for the segmentor and its discriminator in mmengine's Runner.

One backward pass computes the separate gradients of `FADA`'s losses. Its training step is therefore the usual one, and
mmengine's plain distributed wrapper can run it. `MMSeparateDistributedDataParallel`, which would call a `train_step` of
the model, wraps every child module separately and hides the methods of mmseg's heads (`loss`, `predict`).
"""

import contextlib
from collections.abc import Iterator

from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper, OptimWrapperDict, build_optim_wrapper
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import Tensor, nn

from timm_stylenorm.runner.host import clip_grad
from timm_stylenorm.runner.model import bare_model


class JointOptimWrapperDict(OptimWrapperDict):
    """Optimizers of disjoint parameter sets that step together after one backward pass.

    The first one determines the precision, loss scale and gradient accumulation. Each of the others may clip the
    gradients of its own parameters. Schedules (`param_scheduler=dict(segmentor=[...], discriminator=[...])`, or one
    list for both), logs, checkpoints and resuming work as in mmengine's `OptimWrapperDict`.
    """

    @contextlib.contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Return the first optimizer's context, in which the forward pass runs."""
        first, *_ = self.values()
        with first.optim_context(model):
            yield

    def update_params(self, loss: Tensor, step_kwargs: object = None, zero_kwargs: object = None) -> None:
        """Run the backward pass, then all optimizers' steps, unless gradients are still being accumulated."""
        first, *others = self.values()
        first.backward(first.scale_loss(loss))
        if not first.should_update():
            return
        scaler = getattr(first, 'loss_scaler', None)
        for wrapper in others:
            if scaler is None:
                wrapper.step()
                continue
            scaler.unscale_(wrapper.optimizer)
            if wrapper.clip_grad_kwargs:
                clip_grad(wrapper)
            scaler.step(wrapper.optimizer)
        first.step()  # last, since it updates the loss scale
        self.zero_grad()

    def initialize_count_status(self, model: nn.Module, cur_iter: int, max_iters: int) -> None:
        """Initialise the counters for gradient accumulation."""
        next(iter(self.values())).initialize_count_status(model, cur_iter, max_iters)


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class AdversarialOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Builds the usual optimizer for all children but `discriminator`, and a second one for that child.

        optim_wrapper = dict(
            constructor='AdversarialOptimWrapperConstructor',
            optimizer=dict(type='SGD', lr=2.5e-4, momentum=0.9, weight_decay=5e-4),
            paramwise_cfg=dict(custom_keys=dict(decode_head=dict(lr_mult=10.0))),
            discriminator=dict(optimizer=dict(type='Adam', lr=1e-4, betas=(0.9, 0.99))),
        )

    Raises:
        ValueError: The config has no `discriminator`.
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None) -> None:
        optim_wrapper_cfg = dict(optim_wrapper_cfg)
        self.discriminator = optim_wrapper_cfg.pop('discriminator', None)
        if self.discriminator is None:
            raise ValueError("optim_wrapper lacks discriminator=dict(optimizer=dict(type='Adam', lr=1e-4))")
        super().__init__(optim_wrapper_cfg, paramwise_cfg)

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Build both optimizer wrappers, named `segmentor` and `discriminator`.

        Raises:
            ValueError: The model has no child `discriminator`.
        """
        bare = bare_model(model)
        if not hasattr(bare, 'discriminator'):
            raise ValueError(f'{type(self).__name__}: {type(bare).__name__} has no discriminator')
        rest = nn.ModuleDict({name: child for name, child in bare.named_children() if name != 'discriminator'})
        second = build_optim_wrapper(bare.discriminator, self.discriminator)
        return JointOptimWrapperDict(segmentor=super().__call__(rest), discriminator=second)
