"""The wheel: what is in it works without the source tree."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


PIP = [sys.executable, '-m', 'pip', '--quiet', '--disable-pip-version-check']
COMMANDS = [  # and what they print
    (['--help'], 'prepare toy-streets'),
    (['adapt', '--help'], 'usage: stylenorm adapt'),
    (['methods', 'snr'], "timm_stylenorm.add_style(model, 'snr', reduction=16)"),
    (['configs', 'quickstart/deeplabv3plus_r18-small_fada'], 'quickstart/deeplabv3plus_r18-small_fada'),
    (['prepare', 'toy-streets', 'streets', '--train', '1', '--val', '1', '--size', '64x32'], 'streets: 4 images'),
]


@pytest.fixture(scope='module')
def source(tmp_path_factory):
    """A copy of the source tree, since building leaves files behind."""
    ignore = shutil.ignore_patterns('.*', 'build', 'data', 'work_dirs', '*.egg-info')
    return shutil.copytree(ROOT, tmp_path_factory.mktemp('wheel') / 'source', ignore=ignore)


def output_of(script, words, env, folder):
    """What the console script prints in an environment without the source tree."""
    done = subprocess.run([sys.executable, script, *words], cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_an_editable_installation_has_the_command(source, tmp_path):
    site = tmp_path / 'site'
    subprocess.run([*PIP, 'install', '--no-deps', '--target', site, '--editable', source], check=True)
    start = f'import site; site.addsitedir({str(site)!r}); from stylenorm_tools.stylenorm import main; '
    script = f'{start}print(main.__code__.co_filename); main({["prepare", "--help"]!r})'
    env = {key: value for key, value in os.environ.items() if key != 'PYTHONPATH'}
    done = subprocess.run([sys.executable, '-S', '-c', script], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(source / 'tools'))
    assert 'prepare toy-streets' in done.stdout
    assert (site / 'bin' / 'stylenorm').exists()


@pytest.mark.slow
def test_the_wheel_works_without_the_source_tree(source, tmp_path):
    subprocess.run([*PIP, 'wheel', '--no-deps', '--wheel-dir', tmp_path, source], check=True)
    (wheel,) = tmp_path.glob('*.whl')
    site = tmp_path / 'site'
    subprocess.run([*PIP, 'install', '--no-deps', '--target', site, wheel], check=True)
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
    for words, expected in COMMANDS:
        assert expected in output_of(site / 'bin' / 'stylenorm', words, env, tmp_path)
    assert not [path for path in site.iterdir() if path.name in ('tools', 'bench', 'labels')]
