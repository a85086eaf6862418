"""What is installed beside torch: layers need nothing else, hosts that are missing, old or doubled are told."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import timm_stylenorm
from timm_stylenorm import installed

ROOT = Path(__file__).parents[2]
HOSTS = ('timm', 'torchvision', 'mmengine', 'mmcv', 'mmseg', 'mmdet', 'mmpretrain')

# Runs code in a process in which the packages of its first argument cannot be imported.
WITHOUT = """
import importlib.abc, sys
class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in sys.argv[1].split(','):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocked())
exec(sys.argv[2])
"""


def run_without(packages, code):
    environment = {**os.environ, 'PYTHONPATH': str(ROOT)}
    line = [sys.executable, '-c', WITHOUT, ','.join(packages), code]
    return subprocess.run(line, capture_output=True, text=True, env=environment)


EVERY_METHOD = """
import torch
from torch import nn
import timm_stylenorm
from timm_stylenorm.layers import SNR, StyleLayer

class Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.conv1, self.bn1, self.relu = nn.Conv2d(c, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()
    def forward(self, x):
        return self.relu(self.bn1(self.conv1(x)))

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer1, self.layer2 = nn.Sequential(Block(3)), nn.Sequential(nn.MaxPool2d(2), Block(8))
    def forward(self, x):
        return self.layer2(self.layer1(x)).mean((2, 3))

class Mine(StyleLayer):
    def __init__(self, num_features=None):
        super().__init__()
    def restyle(self, x):
        return x * 2

timm_stylenorm.register_method('mine', Mine, sites='stage1')
assert 'stage2' in {row.name for row in timm_stylenorm.list_sites(Net())}
images = torch.randn(4, 3, 16, 16)
for method in timm_stylenorm.list_methods():
    names = {'REPLACE': ('batch_norms',), 'INSERT': ('stage1',), 'EITHER': ('layer1.0.bn1',)}
    row = timm_stylenorm.methods.get_method(method)
    model = timm_stylenorm.add_style(Net(), method, sites=names[row.placement.name])
    model(images).sum().backward()
model = timm_stylenorm.add_style(Net(), 'snr', sites='stage1')
assert not hasattr(timm_stylenorm.remove_style(model).layer1[0], 'style')
SNR(8)(torch.randn(2, 8, 4, 4))
import sys
print(len(timm_stylenorm.list_methods()), {'timm', 'torchvision', 'mmengine'} & {*sys.modules})
"""


@pytest.mark.slow
def test_layers_and_add_style_need_no_host():
    packages = (*HOSTS, 'PIL', 'cv2')
    run = run_without(packages, EVERY_METHOD)
    assert run.returncode == 0, run.stderr
    assert run.stdout == f'{len(timm_stylenorm.list_methods()) + 1} set()\n'


@pytest.mark.slow
@pytest.mark.parametrize(
    ('lacks', 'code', 'told'),
    [
        ('timm', 'import timm_stylenorm.tasks', r"timm_stylenorm.tasks needs timm.*pip install 'stylenorm\[timm\]'"),
        ('timm', 'import timm_stylenorm.launch', r'needs timm'),
        ('timm', 'import timm_stylenorm.convert', r'timm_stylenorm.convert needs timm'),
        (
            'timm',
            "import timm_stylenorm; timm_stylenorm.register_variants('resnet26')",
            r'register_variants needs timm',
        ),
        ('torchvision', 'import timm_stylenorm.whitening', r"torchvision.*'stylenorm\[timm\]'"),
        (
            'mmengine',
            'import timm_stylenorm.runner',
            r"runner needs mmengine.*'stylenorm\[mmseg\]'.*mim install mmengine",
        ),
        ('mmengine', 'import timm_stylenorm.runner.styled', r'timm_stylenorm.runner needs mmengine'),
        ('mmengine', 'import timm_stylenorm.hooks', r'timm_stylenorm.runner needs mmengine'),
        ('mmengine', 'import timm_stylenorm.classification.data', r'timm_stylenorm.classification needs mmengine'),
        ('mmengine,mmcv,mmseg', 'import mmseg_stylenorm', r"needs mm\w+, which is not installed.*'stylenorm\[mmseg\]'"),
    ],
)
def test_what_needs_a_host_that_is_missing_says_so(lacks, code, told):
    run = run_without(
        lacks.split(','), f'try:\n    {code}\nexcept ModuleNotFoundError as error:\n    print(error, error.name)'
    )
    assert re.search(told, run.stdout), (run.stdout, run.stderr)
    assert run.stdout.split()[-1] in lacks.split(',')


def test_another_module_that_is_missing_keeps_its_own_error():
    with pytest.raises(ModuleNotFoundError, match=r"^No module named 'absent_package'$"), installed.needing('it'):
        import absent_package  # noqa: F401


@pytest.mark.parametrize('version', ['0.9.16', '1.0.9', '1.0.26'])
def test_an_old_host_is_refused_with_the_version_that_is_needed(version):
    with pytest.raises(ImportError, match=rf"{version} is installed: pip install 'timm>=1\.0\.27'"):
        installed.check_version('timm', version)


@pytest.mark.parametrize('version', ['1.0.27', '1.0.27.dev0', '1.1.0', '2.0'])
def test_a_newer_host_is_taken(version):
    installed.check_version('timm', version)


def distribution(folder, name, version, tops=None, record=''):
    info = folder / f'{name.replace("-", "_")}-{version}.dist-info'
    info.mkdir(parents=True)
    (info / 'METADATA').write_text(f'Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n')
    (info / 'RECORD').write_text(record)
    if tops is not None:
        (info / 'top_level.txt').write_text(tops)


@pytest.fixture
def site(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, 'path', [str(tmp_path / 'a'), str(tmp_path / 'b')])
    installed.owners.cache_clear()
    yield tmp_path
    installed.owners.cache_clear()


@pytest.mark.parametrize(
    ('package', 'names'),
    [
        ('mmcv', ('mmcv', 'onedl-mmcv')),
        ('mmcv', ('mmcv', 'mmcv-lite')),
        ('mmengine', ('mmengine', 'onedl-mmengine')),
        ('mmseg', ('mmsegmentation', 'onedl-mmsegmentation')),
        ('mmseg', ('mmsegmentation', 'a-fork-of-tomorrow')),
    ],
)
def test_two_distributions_of_one_folder_are_refused_with_the_cure(site, package, names):
    distribution(site / 'a', names[0], '2.1.0', tops=f'{package}\n')
    distribution(site / 'a', names[1], '9.9', record=f'{package}/__init__.py,sha256=x,1\n')  # without top_level.txt
    with pytest.raises(ImportError) as told:
        installed.check_owners(package)
    text = str(told.value)
    assert f'{package}/ belongs to two distributions' in text
    assert f'pip uninstall --yes {" ".join(sorted(names))}' in text
    assert f'pip install --no-deps {names[0]}==2.1.0' in text
    assert f'pip install --no-deps {names[1]}==9.9' in text


def test_one_distribution_that_is_found_twice_is_one(site):
    distribution(site / 'a', 'onedl-mmcv', '2.3.6', tops='mmcv\n')
    distribution(site / 'b', 'onedl_mmcv', '2.3.6', tops='mmcv\n')
    distribution(site / 'b', 'mmcv-tools', '1.0', tops='mmcv_tools\n', record='mmcv_tools/__init__.py,,\n')
    installed.check_owners('mmcv', 'mmengine', 'mmseg')
    assert [*installed.owners('mmcv')] == ['onedl-mmcv']
