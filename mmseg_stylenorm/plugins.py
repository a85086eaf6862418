"""Style layers as plugins of mmseg's bottleneck blocks, one for every method that inserts a layer after a module.

    plugins=[dict(cfg=dict(type='SNR', reduction=16), stages=(True, True, True, False), position='after_conv3')]
    plugins=[dict(cfg=dict(type='MixStyle', p=0.5), stages=(True, True, False, False), position='after_conv3')]

`type` is the name of the layer. A plugin sits inside every block of its stages, whereas `style=` puts one layer after
each stage. mmseg passes the same input to all plugins of one position and uses the output of the last one. The
StyleNorm segmentors collect the layers' losses and pass SNR the labels for its dual causality loss; with mmseg's own
`EncoderDecoder` the layer restyles, but its losses are not trained.
"""

from mmengine.registry import MODELS

from timm_stylenorm.layers import StyleLayer
from timm_stylenorm.methods import Method, Placement, for_every_method

PLUGINS: dict[str, type[StyleLayer]] = {}


def _plugin(method: str, row: Method) -> type[StyleLayer]:
    """Return a method's layer class whose argument has the name `in_channels`, which mmcv uses for plugins."""

    def build(self: StyleLayer, in_channels: int, **kwargs: object) -> None:
        row.check_kwargs(method, kwargs)
        row.layer.__init__(self, in_channels, **kwargs)

    content = {'__init__': build, '__module__': __name__, '__doc__': f'{row.summary}; {row.paper}.', '_abbr_': method}
    return type(row.layer.__name__, (row.layer,), content)


def _register(method: str, row: Method) -> None:
    name = row.layer.__name__
    if row.placement is Placement.INSERT and name not in PLUGINS:
        PLUGINS[name] = globals()[name] = _plugin(method, row)  # pickle looks for it here
        MODELS.register_module(module=PLUGINS[name])


for_every_method(_register)
