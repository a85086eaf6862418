"""The tables of patches: each row says what it is for and takes effect, and nothing else in the hosts changes."""

import importlib.util
import json
import pkgutil
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch

pytest.importorskip('mmengine')
from timm_stylenorm.host import PATCHES as OF_TIMM
from timm_stylenorm.patches import Patch, StandIn, install_patches
from timm_stylenorm.runner.host import PATCHES as OF_MMENGINE

HERE = str(Path(__file__).parent)
HAS_MMSEG = importlib.util.find_spec('mmseg') is not None
if HAS_MMSEG:
    from mmseg.models.backbones import resnet

    from mmseg_stylenorm.host import PATCHES as OF_MMSEG
else:
    OF_MMSEG = ()
PATCHES = [pytest.param(patch, id=patch.what[0]) for patch in (*OF_TIMM, *OF_MMENGINE, *OF_MMSEG)]


@pytest.mark.parametrize('patch', PATCHES)
def test_a_patch_is_in_place(patch):
    assert patch.took() or not patch.needed


@pytest.mark.parametrize('patch', PATCHES)
def test_a_row_is_complete(patch):
    assert patch.what
    assert patch.by
    assert len(patch.why) > 30
    for version in (patch.since, patch.until):
        assert re.fullmatch(r'[a-z-]+ \d+\.\d+\.\d+', version)


def test_patches_are_installed_once():
    rows = [*OF_TIMM, *OF_MMENGINE, *OF_MMSEG]
    before = [patch.current(name) for patch in rows for name in patch.what if patch.needed]
    install_patches(rows)
    assert all(
        old is new for old, new in zip(before, (p.current(n) for p in rows for n in p.what if p.needed), strict=True)
    )


@pytest.mark.parametrize('gone', ['mmengine.runner.Runner.gone', 'mmengine.gone.f', 'mmengine.runner.gone[key]'])
def test_a_host_without_what_is_patched_is_refused_with_the_reason(gone):
    row = Patch((gone,), 'the test wants it', 'mmengine 1.0.0', 'mmengine 1.2.0', by='json.dumps')
    assert not row.took()
    with pytest.raises(RuntimeError, match=rf'{re.escape(gone)} is not there .* because the test wants it.* 1\.2\.0'):
        row.install()


def test_a_patch_that_somebody_has_replaced_has_not_taken(monkeypatch):
    row = next(patch for patch in OF_MMENGINE if patch.what == ('mmengine.runner.checkpoint.load_url',))
    monkeypatch.setattr('mmengine.runner.checkpoint.load_url', lambda *args: None)
    assert not row.took()


# Prints which attributes of the hosts' modules are others once the packages are imported; of modules, what they lack.
COMPARE = """
import contextlib, importlib, json, sys, types
sys.path.insert(0, sys.argv[1])
import compiled_ops
compiled_ops.install()
import mmengine.hub, mmengine.runner, timm.optim, timm.task
with contextlib.suppress(ImportError):
    import mmseg.apis

HOSTS = {n: m for n, m in sys.modules.items() if n.partition('.')[0] in ('mmengine', 'mmcv', 'mmseg', 'timm')}
before = {name: dict(vars(module)) for name, module in HOSTS.items()}
for package in ('timm_stylenorm.runner', 'mmseg_stylenorm')[: 2 if 'mmseg' in sys.modules else 1]:
    importlib.import_module(package)
changed = {}
for name, module in HOSTS.items():
    for key, new in vars(module).items():
        old = before[name].get(key)
        if old is not new and not (old is None and isinstance(new, types.ModuleType)):  # a sub-module, loaded since
            lacks = [a for a in dir(old) if not hasattr(new, a)] if isinstance(old, types.ModuleType) else []
            changed[f'{name}.{key}'] = type(old).__name__, isinstance(new, type(old)), lacks
print(json.dumps(changed))
"""


@pytest.mark.slow
def test_importing_changes_nothing_in_the_hosts_but_what_the_tables_name():
    run = subprocess.run([sys.executable, '-c', COMPARE, HERE], capture_output=True, text=True, check=True)
    changed = json.loads(run.stdout.splitlines()[-1])
    named = {name for patch in (*OF_TIMM, *OF_MMENGINE, *OF_MMSEG) if patch.needed for name in patch.what}
    within = {n for n in named if n.endswith(']') or isinstance(pkgutil.resolve_name(n.rpartition('.')[0]), type)}
    assert {*changed} == named - within
    modules = {name: rest for name, (kind, *rest) in changed.items() if kind == 'module'}
    rows = [patch for patch in (*OF_MMENGINE, *OF_MMSEG) if patch.needed]
    stand_ins = [patch for patch in rows if isinstance(pkgutil.resolve_name(patch.by.partition('[')[0]), StandIn)]
    assert modules == {name: [True, []] for patch in stand_ins for name in patch.what}
    assert {kind for kind, *_ in changed.values()} <= {'module', 'function', 'NoneType'}  # no class is another one


@pytest.mark.skipif(not HAS_MMSEG, reason='needs mmseg')
class TestActivationCheckpointing:
    def test_all_of_mmsegs_modules_are_in_the_table(self):
        names = {name for patch in OF_MMSEG for name in patch.what}
        own = (torch.utils.checkpoint, torch.utils.checkpoint.checkpoint)
        left = [
            f'{name}.{key}'
            for name, module in list(sys.modules.items())
            if name.startswith('mmseg.models')
            for key, value in vars(module).items()
            if any(value is item for item in own)
        ]
        assert left == []
        assert {f'mmseg.models.backbones.{name}.cp' for name in ('resnet', 'mit', 'swin')} <= names

    def test_a_block_runs_without_reentry(self, monkeypatch):
        seen = []
        block = resnet.BasicBlock(4, 4, with_cp=True)
        block.register_forward_hook(lambda *_: seen.append(torch.is_grad_enabled()))
        block.conv1.register_forward_hook(lambda *_: seen.append(torch.is_grad_enabled()))
        block(torch.randn(1, 4, 4, 4, requires_grad=True))
        assert seen == [True, True]

    def test_others_find_the_whole_module(self):
        assert isinstance(resnet.cp, types.ModuleType)
        assert {*dir(torch.utils.checkpoint)} <= {*dir(resnet.cp)}
        x = torch.randn(2, requires_grad=True)
        resnet.cp.checkpoint(torch.sin, x, use_reentrant=True).sum().backward()
        resnet.cp.checkpoint_sequential([torch.nn.Identity()], 1, x, use_reentrant=False).sum().backward()
        torch.testing.assert_close(x.grad, x.detach().cos() + 1)

    def test_others_may_subclass_what_they_find(self):
        class Norm(resnet._BatchNorm):
            pass

        assert issubclass(Norm, torch.nn.modules.batchnorm._BatchNorm)
