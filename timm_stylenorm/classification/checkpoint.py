"""Weights to start a classifier from: timm's, mmengine's or plain state dicts."""

import logging
from dataclasses import replace

from mmengine.logging import print_log
from torch import nn

from ..checkpoints import read_state_dict
from ..surgery.add import style_parameters
from ..surgery.weights import fitted


def load_checkpoint(net: nn.Module, path: str) -> None:
    """Loads weights of the plain or the styled `net` from a file, in place; code in the file is never run.

    Reads a state dict, or a dict that holds one as `state_dict_ema`, `state_dict` or `model`, with or without the
    prefixes `module.` and `net.`. Style parameters that are not in the file keep their initialisation, and
    so does a classifier with another number of classes (a warning says so). Auxiliary batch norms that are not in the
    file become copies of the main ones.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file holds code or no state dict, is damaged, or is of another architecture.
    """
    may_miss = {name for name, _ in style_parameters(net)}
    may_miss |= {key for key in net.state_dict() if '.aux_bn.' in key}  # these become copies of the main batch norms
    state, fit = fitted(net, read_state_dict(path), may_miss)
    classifier = (getattr(net, 'pretrained_cfg', None) or {}).get('classifier') or ()
    heads = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    other_head = [key for key in fit.reshaped if key.rpartition('.')[0] in heads]
    for key in other_head:
        del state[key]
    fit = replace(fit, reshaped=[key for key in fit.reshaped if key not in other_head])
    if not fit:
        raise ValueError(f"'{path}' is a checkpoint of another architecture than this {type(net).__name__}: {fit}")
    net.load_state_dict(state, strict=False)
    if other_head:
        text = f"'{path}' has another number of classes: {', '.join(other_head)} keep their initialisation"
        print_log(text, 'current', logging.WARNING)
