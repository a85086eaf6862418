"""How weights come into a model of timm, and models to try it with."""

import copy
import functools
import json
import shutil

import pytest
import timm
import torch
from huggingface_hub.utils import EntryNotFoundError
from nets import SMALL
from timm.models import _hub, save_for_hf

import timm_stylenorm
from timm_stylenorm import launch

ARCH = 'test_resnet'
FAMILIES = {  # arguments of a small model, and the methods that its structure has places for
    'test_efficientnet': ({}, {'snr', 'selfnorm', 'bin', 'padain', 'debiased'}),
    'convnext_atto': (SMALL['convnext'], {'snr', 'selfnorm', 'padain'}),
    'swin_tiny_patch4_window7_224': (SMALL['swin'], {'snr', 'selfnorm', 'crossnorm'}),
}
for _arch in (ARCH, 'test_vit', *FAMILIES):
    timm_stylenorm.register_variants(_arch)


def drawn(model):
    """The model, with tensors that no initialisation gives."""
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.copy_(torch.rand_like(tensor) / 10 + 0.5 if tensor.is_floating_point() else tensor + 3)
    return model


@functools.cache
def save_published(root, arch, method, options):
    torch.manual_seed(1)
    model = drawn(timm.create_model(f'{arch}_{method}' if method else arch, num_classes=5, **dict(options)))
    folder = root / f'{arch}-{method}-{len(options)}'
    save_for_hf(model, folder, safe_serialization='both')
    state = model.state_dict()
    torch.save({'state_dict': {k: v + 1 for k, v in state.items()}, 'state_dict_ema': state}, folder / 'last.pth.tar')
    return model, folder


def overlay(name, folder, **kwargs):
    entries = dict(file=str(folder / 'model.safetensors'), num_classes=5)
    return timm.create_model(name, pretrained=True, pretrained_cfg_overlay=entries, **{'num_classes': 5, **kwargs})


def state_dict(name, folder, **kwargs):
    entries = dict(state_dict=torch.load(folder / 'pytorch_model.bin'), num_classes=5)
    return timm.create_model(name, pretrained=True, pretrained_cfg_overlay=entries, num_classes=5, **kwargs)


def folder_by_overlay(name, folder, **kwargs):
    entries = dict(source='local-dir', file=str(folder), num_classes=5)
    return timm.create_model(name, pretrained=True, pretrained_cfg_overlay=entries, num_classes=5, **kwargs)


def pretrained_cfg(name, folder, **kwargs):
    cfg = dict(file=str(folder / 'last.pth.tar'), num_classes=5)
    return timm.create_model(name, pretrained=True, pretrained_cfg=cfg, **kwargs)


def _named(name, folder):
    """A copy of the folder whose config names a model."""
    copied = folder.with_name(f'{folder.name}-as-{name}')
    shutil.copytree(folder, copied, dirs_exist_ok=True)
    config = json.loads((folder / 'config.json').read_text())
    (copied / 'config.json').write_text(json.dumps({**config, 'architecture': name}))
    return copied


def local_dir(name, folder, **kwargs):
    return timm.create_model(f'local-dir:{_named(name, folder)}', pretrained=True, **kwargs)


def hub(name, folder, **kwargs):
    copied = _named(name, folder)

    def download(repo_id, filename, **kwargs):
        if not (copied / filename).is_file():
            raise EntryNotFoundError(filename)
        return str(copied / filename)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_hub, 'hf_hub_download', download)
        return timm.create_model('hf-hub:somebody/net', pretrained=True, **kwargs)


def checkpoint_path(name, folder, **kwargs):
    return timm.create_model(name, checkpoint_path=str(folder / 'last.pth.tar'), num_classes=5, **kwargs)


def safe_checkpoint_path(name, folder, **kwargs):
    return timm.create_model(name, checkpoint_path=folder / 'model.safetensors', num_classes=5, **kwargs)


def _launched(name, **kwargs):
    arch = next(arch for arch in (ARCH, *FAMILIES) if name.startswith(f'{arch}_'))
    with launch.styled_timm(dict(type=name.removeprefix(f'{arch}_'))):
        return timm.create_model(arch, num_classes=5, **kwargs)


def initial_checkpoint(name, folder, **kwargs):
    return _launched(name, checkpoint_path=str(folder / 'last.pth.tar'), **kwargs)


def launched_overlay(name, folder, **kwargs):
    entries = dict(file=str(folder / 'last.pth.tar'), num_classes=5)
    return _launched(name, pretrained=True, pretrained_cfg_overlay=entries, **kwargs)


DOORS = (
    overlay, local_dir, checkpoint_path, state_dict, folder_by_overlay, pretrained_cfg, hub, safe_checkpoint_path,
    initial_checkpoint, launched_overlay,
)  # fmt: skip


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    assert not [key for key, value in theirs.items() if not torch.equal(ours[key], value)]


def assert_based_on(model, base, style):
    """The weights of the base, as `add_style` takes them over, and new layers as they begin."""
    expected = timm_stylenorm.add_style(copy.deepcopy(base), style).state_dict()
    state = model.state_dict()
    assert state.keys() == expected.keys()
    assert not [k for k, v in expected.items() if '.style.' not in k and not torch.equal(state[k], v)]
