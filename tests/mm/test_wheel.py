"""The wheel: what is in it works without the source tree."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_wheel_works_without_the_source_tree(tmp_path):
    source = tmp_path / 'source'  # building leaves files behind
    ignore = shutil.ignore_patterns('.*', 'build', 'data', 'work_dirs', '*.egg-info')
    shutil.copytree(ROOT, source, ignore=ignore)
    pip = [sys.executable, '-m', 'pip', '--quiet', '--disable-pip-version-check']
    subprocess.run([*pip, 'wheel', '--no-deps', '--wheel-dir', tmp_path, source], check=True)
    (wheel,) = tmp_path.glob('*.whl')
    site = tmp_path / 'site'
    subprocess.run([*pip, 'install', '--no-deps', '--target', site, wheel], check=True)
    script = (
        'import timm, timm_stylenorm, mmseg_stylenorm\n'
        'from timm_stylenorm.runner.configs import find_config\nfrom mmengine.config import Config\n'
        "assert timm.create_model('resnet18_padain')\n"
        "path = find_config('segmentation/deeplabv3plus_r50-d8_snr_4xb2-40k_gtav2cityscapes-512x1024.py')\n"
        'assert Config.fromfile(path).model.style\n'
        'from mmengine.hub import get_config\n'
        "name = 'quickstart/deeplabv3plus_r18-small_1xb8-240_toy-streets.py'\n"
        "print(timm_stylenorm.__file__, path, get_config(f'mmseg_stylenorm::{name}').filename)"
    )
    env = {**os.environ, 'PYTHONPATH': str(site)}
    out = subprocess.run([sys.executable, '-c', script], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    shown = out.stdout.split()[-3:]
    assert all(path.startswith(str(site)) for path in shown), shown
    assert (site / 'timm_stylenorm' / 'py.typed').exists()
    assert (site / 'mmseg_stylenorm' / '.mim' / 'tools' / 'train.py').exists()
