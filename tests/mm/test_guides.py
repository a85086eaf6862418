"""The configs and commands of docs/guides.md, and the tables of docs/choosing.md that take models to make."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip('mmengine')
import sites
import stylenorm

DOCS = Path(__file__).parents[2] / 'docs'
GUIDES = (DOCS / 'guides.md').read_text()
SMALLER = {"model='resnet50', pretrained=True": "model='test_resnet'", 'input_size=224': 'input_size=32'}
SMALLER |= {'num_workers=4': 'num_workers=0', 'max_epochs=20': 'max_epochs=1', 'T_max=20': 'T_max=1'}
SMALLER |= {'batch_size=32': 'batch_size=8'}


def configs():
    """Title -> config."""
    return dict(re.findall(r'^```python title=(\S+)\n(.*?)^```', GUIDES, re.M | re.S))


@pytest.fixture
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)
    for domain in ('photo', 'sketch'):
        for label in ('cat', 'dog'):
            folder = tmp_path / 'data/mine' / domain / label
            folder.mkdir(parents=True)
            for i in range(10):
                Image.fromarray(draw.integers(0, 255, (40, 48, 3), np.uint8)).save(folder / f'{i}.jpg')
    text = configs()['mine.py']
    for large, small in SMALLER.items():
        assert large in text
        text = text.replace(large, small)
    (tmp_path / 'mine.py').write_text(text)
    return tmp_path


@pytest.mark.slow
def test_the_commands_for_a_folder_of_ones_own_run(own_folder, capsys):
    (block,) = [code for code in re.findall(r'^```bash\n(.*?)^```', GUIDES, re.M | re.S) if 'mine.py' in code]
    for line in block.replace('--seeds 0 1 2', '--seeds 0').splitlines():
        words = [str(path) for word in shlex.split(line)[1:] for path in (sorted(Path().glob(word)) or [word])]
        assert stylenorm.main(words) == 0, line
    assert 'unseen' in capsys.readouterr().out
    assert (own_folder / 'work_dirs').is_dir()


@pytest.mark.slow
def test_a_method_of_ones_own_is_known_to_the_command_line(own_folder):
    (own_folder / 'my_methods.py').write_text(configs()['my_methods.py'])
    (line,) = re.findall(r'^custom_imports = .*my_methods.*$', GUIDES, re.M)
    (own_folder / 'own.py').write_text((own_folder / 'mine.py').read_text() + line + '\n')
    env = {**os.environ, 'PYTHONPATH': os.pathsep.join([str(own_folder), os.environ.get('PYTHONPATH', '')])}
    words = [sys.executable, str(DOCS.parent / 'tools/train.py'), 'own.py', '--style', 'meandrop', 'share=0.5']
    done = subprocess.run(words, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert 'meandrop' in done.stdout + done.stderr


@pytest.mark.parametrize('title', ['street_snr.py', 'street_isw.py'])
def test_the_segmentors_of_the_guide_build(title, tmp_path):
    pytest.importorskip('mmseg')
    from cli import load_config, parser
    from mmengine.registry import MODELS, DefaultScope

    (tmp_path / title).write_text(configs()[title])
    cfg = load_config(parser('').parse_args([str(tmp_path / title)]))
    cfg.model.pretrained = None
    cfg.model.backbone.depth = 50
    with DefaultScope.overwrite_default_scope('mmseg'):
        model = MODELS.build(cfg.model)
    assert any(name.endswith(('style', '.bn1')) or '.style.' in name for name, _ in model.named_modules())


def table(host):
    """The table of choosing.md that says what fits, and the names of its models."""
    (text,) = re.findall(rf'<!-- fit {host} -->\n(.*?)\n<!-- /fit {host} -->', (DOCS / 'choosing.md').read_text(), re.S)
    return text, re.findall(r'`([^`]+)`', text.splitlines()[0])


@pytest.mark.slow
@pytest.mark.parametrize('host', ['timm', 'mmseg'])
def test_what_fits_is_what_the_tool_finds(host):
    text, names = table(host)
    models = names
    if host == 'mmseg':
        mmseg = pytest.importorskip('mmseg')
        folder = Path(mmseg.__file__).parent / '.mim/configs'
        models = [str(next(folder.glob(f'*/{name}_*.py'))) for name in names]
    rows = sites.fit_table(models).splitlines()
    assert rows[2:] == text.splitlines()[2:]
