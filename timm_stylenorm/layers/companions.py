"""Companions: what some layers need in addition, what happens if it is missing, and how to provide it."""

from __future__ import annotations

from typing import NamedTuple


class Companion(NamedTuple):
    """A row of `COMPANIONS`: the `effect` if the companion is missing, and the `cure` in every host."""

    effect: str
    cure: str


COMPANIONS: dict[str, Companion] = {
    'classes': Companion(
        'nobody has said how many classes there are, so its loss over classes is off',
        'give the style num_classes=K, and dense=True where labels are maps; num_classes=0 trains without this loss',
    ),
    'gates': Companion(
        'its gates are in a group with other weights, so they learn slowly, decay, and may leave [0, 1]',
        'call timm_stylenorm.gates.separate_gates(optimizer, model), or with mmengine set '
        "optim_wrapper.constructor='GateOptimWrapperConstructor'",
    ),
    'pairs': Companion(
        'no pairs of channels are selected, so nothing is whitened',
        "add custom_hooks=[dict(type='ISWHook', begin=...)], or call timm_stylenorm.whitening.select_pairs",
    ),
    'domains': Companion(
        'nobody has said of which domain the images are, so the halves of each batch count as two domains',
        'call timm_stylenorm.set_domains before each batch, or train StyleNormClassifier on a data set with domains',
    ),
    'recipe': Companion(
        'its layers change nothing by themselves',
        'train with its recipe: `recipe` in a model of mmengine, `--recipe` of timm_stylenorm.launch, '
        'timm_stylenorm.tasks, or timm_stylenorm.recipes.build_recipe in a loop of your own',
    ),
}
