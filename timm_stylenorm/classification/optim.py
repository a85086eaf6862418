"""timm's optimizers, and its rules for parameter groups, in mmengine's Runner."""

from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS
from timm.optim import create_optimizer_v2
from torch import nn

from ..gates import separate_gates


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class TimmOptimWrapperConstructor:
    """Builds the optimizer with `timm.optim.create_optimizer_v2`.

        optim_wrapper = dict(
            constructor='TimmOptimWrapperConstructor',
            optimizer=dict(opt='lamb', lr=5e-3, weight_decay=0.02, layer_decay=0.75),
            clip_grad=dict(max_norm=1.0))

    The keys of `optimizer` are the arguments of `create_optimizer_v2`. By timm's rules, biases, norm parameters and the
    parameters that the model names in `no_weight_decay()` get no weight decay. The learning rate of each layer under
    `layer_decay` is written into its group, since mmengine's schedulers, unlike timm's, do not read `lr_scale`.
    The gates of batch-instance normalisation get groups of their own, see `gates.separate_gates`.
    timm's 'sgd' is SGD with Nesterov's momentum, its 'momentum' is plain SGD with momentum.
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None) -> None:
        if paramwise_cfg:
            raise ValueError(
                "TimmOptimWrapperConstructor: paramwise_cfg belongs to mmengine's own constructor; timm forms the "
                'groups (filter_bias_and_bn, layer_decay: keys of `optimizer`)'
            )
        self.wrapper_cfg = dict(optim_wrapper_cfg)
        self.optimizer_cfg = dict(self.wrapper_cfg.pop('optimizer'))
        if 'type' in self.optimizer_cfg:
            raise ValueError(
                f"TimmOptimWrapperConstructor: write opt='{self.optimizer_cfg['type'].lower()}' instead of `type`; "
                f'timm.optim.list_optimizers() lists the names'
            )

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """The wrapper with the optimizer of `model`, which may be wrapped in DDP."""
        model = getattr(model, 'module', model)
        optimizer = create_optimizer_v2(getattr(model, 'net', model), **self.optimizer_cfg)
        for group in optimizer.param_groups:
            group['lr'] *= group.pop('lr_scale', 1.0)
        separate_gates(optimizer, model)
        wrapper_cfg: dict[str, object] = {'type': 'OptimWrapper', **self.wrapper_cfg}
        return OPTIM_WRAPPERS.build(wrapper_cfg, default_args=dict(optimizer=optimizer))
