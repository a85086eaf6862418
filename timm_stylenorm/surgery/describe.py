"""What a log says when a style has been built into a model."""

from __future__ import annotations

from torch import nn

from ..layers import StyleLayer
from .add import style_layers
from .attachment import replaces_norm

SHOWN = 6  # at most this number of sites is named


def describe_style(model: nn.Module) -> str:
    """One line on the style layers of a model; '' if it has none.

        style: ibn_a replaces 6 norms; mixstyle after stage1, stage2; +0 parameters; losses: none

    The number of parameters is that of the layers, less that of the norms that they replace.
    """
    methods: dict[str, list[tuple[str, StyleLayer]]] = {}
    for label, layer in style_layers(model):
        method, _, site = label.partition('.')
        methods.setdefault(method, []).append((site, layer))
    if not methods:
        return ''
    places = [f'{method} {_places(layers)}' for method, layers in methods.items()]
    added = sum(_added(layer) for layers in methods.values() for _, layer in layers)
    terms = {name: [t for _, layer in layers for t in layer.loss_terms()] for name, layers in methods.items()}
    losses = [f'{name} ({", ".join(dict.fromkeys(words))})' for name, words in terms.items() if words]
    return f'style: {"; ".join(places)}; {added:+,} parameters; losses: {", ".join(losses) or "none"}'


def _places(layers: list[tuple[str, StyleLayer]]) -> str:
    replacing = sum(replaces_norm(layer) for _, layer in layers)
    sites = [site for site, layer in layers if not replaces_norm(layer)]
    words = []
    if sites:
        where = ', '.join(sites) if len(sites) <= SHOWN else f'{len(sites)} modules'
        words.append(f'{"as" if layers[0][1].attachment is None else "after"} {where}')  # as: the model was written so
    if replacing:
        words.append(f'replaces {replacing} norm{"s" * (replacing > 1)}')
    return ', '.join(words)


def _added(layer: StyleLayer) -> int:
    own = sum(p.numel() for name, p in layer.named_parameters() if not name.startswith(('act.', 'style.')))
    return own - (2 * layer.num_features if replaces_norm(layer) else 0)  # only norms with weights are replaced
