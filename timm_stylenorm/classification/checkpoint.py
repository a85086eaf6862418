"""Weights to start a classifier from: timm's, mmengine's or plain state dicts."""

import logging

from mmengine.logging import print_log
from torch import Tensor, nn

from ..runner.checkpoint import load_local
from ..surgery.add import style_parameters


def load_checkpoint(net: nn.Module, path: str) -> None:
    """Loads weights of the plain or the styled `net` from a file, in place; no code in the file is run.

    Reads a state dict, or a dict that holds one as `state_dict_ema`, `state_dict` or `model`, with or without the
    prefixes `module.` and `net.`. Style parameters that the file lacks keep their initialisation, and so does a
    classifier with another number of classes (a message says so); auxiliary batch norms become copies of the main ones.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file holds code or no state dict, is damaged, or is one of another architecture.
    """
    state, own = _read(path), net.state_dict()
    classifier = (getattr(net, 'pretrained_cfg', None) or {}).get('classifier') or ()
    heads = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    misfits = [key for key in state if key in own and state[key].shape != own[key].shape]
    other_head = [key for key in misfits if key.rpartition('.')[0] in heads]
    for key in other_head:
        del state[key]
        misfits.remove(key)
    may_miss = {name for name, _ in style_parameters(net)} | set(other_head)
    may_miss |= {key for key in own if '.aux_bn.' in key}  # auxiliary batch norms: copies of the main ones then
    missing = [key for key in own if key not in state and key not in may_miss]
    unexpected = [key for key in state if key not in own]
    if missing or unexpected or misfits:
        raise ValueError(
            f"'{path}' is a checkpoint of another architecture than this {type(net).__name__}: "
            f'{_some("missing", missing)}, {_some("unexpected", unexpected)}, {_some("of another shape", misfits)}'
        )
    net.load_state_dict(state, strict=False)
    if other_head:
        text = f"'{path}' has another number of classes: {', '.join(other_head)} keep their initialisation"
        print_log(text, 'current', logging.WARNING)


def _read(path: str) -> dict[str, Tensor]:
    state = load_local(path, map_location='cpu')
    for name in ('state_dict_ema', 'state_dict', 'model'):
        state = state.get(name, state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"'{path}' holds no state dict: expected a dict of tensors")
    return {key.removeprefix('module.').removeprefix('net.'): value for key, value in state.items()}


def _some(label: str, keys: list[str]) -> str:
    return f'{len(keys)} keys {label}' + (f' ({", ".join(keys[:3])}{", ..." if len(keys) > 3 else ""})' if keys else '')
