"""Style layers as plugins of mmseg's bottleneck blocks, one for every method that may follow any module
and needs no recipe.

    plugins=[dict(cfg=dict(type='SNR', reduction=16), stages=(True, True, True, False), position='after_conv3')]
    plugins=[dict(cfg=dict(type='MixStyle', p=0.5), stages=(True, True, False, False), position='after_conv3')]

`type` is the name of the layer. A plugin sits inside every block of its stages, where `style=` puts one layer after
each stage, and mmseg gives all plugins of one position the same input and takes the output of the last. Losses are
collected by the StyleNorm segmentors, which also tell SNR the classes for its dual causality loss; with mmseg's own
`EncoderDecoder` the layer restyles, but its losses are not trained.
"""

from typing import Any

from mmengine.registry import MODELS

from timm_stylenorm.layers import StyleLayer
from timm_stylenorm.methods import METHODS

PLUGINS: dict[str, type[StyleLayer]] = {}


def _plugin(method: str) -> type[StyleLayer]:
    """The layer of a method, under the argument name `in_channels` that mmcv gives to plugins."""
    row = METHODS[method]

    def build(self: Any, in_channels: int, **kwargs: Any) -> None:
        row.check_kwargs(method, kwargs)
        row.layer.__init__(self, in_channels, **kwargs)  # type: ignore[misc]

    content = {'__init__': build, '__module__': __name__, '__doc__': f'{row.summary}; {row.paper}.', '_abbr_': method}
    return type(row.layer.__name__, (row.layer,), content)


for _name, _row in METHODS.items():
    _fits = _row.recipe is None and not hasattr(_row.layer, 'from_norm')
    if _fits and _row.layer.__name__ not in PLUGINS:
        PLUGINS[_row.layer.__name__] = _plugin(_name)
        MODELS.register_module(module=PLUGINS[_row.layer.__name__])
globals().update(PLUGINS)  # where pickle looks for them
