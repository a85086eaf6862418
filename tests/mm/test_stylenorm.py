"""The command `stylenorm`: its table, what it lists and explains, and how little it loads before it must."""

import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import timm

pytest.importorskip('mmseg')
import methods
import sites
import stylenorm
from ends import status_of
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS

import mmseg_stylenorm  # noqa: F401 (registers the segmentors)
import timm_stylenorm
from timm_stylenorm.layers.companions import COMPANIONS
from timm_stylenorm.methods import ROWS
from timm_stylenorm.runner.configs import config_root, list_configs
from timm_stylenorm.surgery.listing import fitting_methods

QUICK = 'quickstart/deeplabv3plus_r18-small_1xb8-240_toy-streets.py'
ROOT = Path(__file__).parents[2]
HELPERS = {'__init__', 'classifiers', 'cli', 'disk', 'mistakes', 'networks', 'processes', 'stylenorm'}
SCRIPTS = sorted(path.stem for path in ROOT.glob('tools/*.py') if path.stem not in HELPERS)


@pytest.fixture
def shown(capsys, monkeypatch):
    """What a command prints."""
    monkeypatch.setattr(sys, 'argv', ['stylenorm'])

    def show(*words):
        assert status_of(stylenorm.main, list(words)) == 0
        return capsys.readouterr().out

    return show


def test_every_tool_is_a_command_and_no_other():
    assert sorted(tool.script for tool in stylenorm.COMMANDS.values()) == SCRIPTS


def test_the_pages_name_only_commands_that_exist():
    pages = [ROOT / 'README.md', ROOT / 'CHANGELOG.md', *ROOT.glob('docs/*.md')]
    named = {words for page in pages for words in re.findall(r'`stylenorm ((?!-)[\w-]+(?: [\w-]+)?)', page.read_text())}
    assert named
    assert all(stylenorm.find(words.split()) for words in named), named


@pytest.mark.parametrize('words', [['--help'], []], ids=['help', 'nothing'])
def test_the_help_lists_all_commands(shown, words):
    text = shown(*words)
    assert all(f'  {name} ' in text and tool.summary in text for name, tool in stylenorm.COMMANDS.items())


def test_the_help_of_a_group_lists_its_commands(shown):
    assert re.findall(r'^  (\w+ [\w-]+) ', shown('prepare', '--help'), re.M) == [
        *('prepare gta5', 'prepare synthia', 'prepare mapillary', 'prepare nthu', 'prepare cityscapes'),
        'prepare toy-streets',
    ]


@pytest.mark.parametrize('name', stylenorm.COMMANDS)
@pytest.mark.some(7)
def test_the_help_of_a_command_has_its_name_and_loads_neither_torch_nor_a_host(name):
    heavy = "{'torch', 'timm', 'timm_stylenorm', 'mmcv', 'mmseg'} & {*sys.modules}"
    script = f'import atexit, sys; sys.path.insert(0, "tools"); atexit.register(lambda: print({heavy}))\n'
    script += f'import stylenorm; sys.exit(stylenorm.main({[*name.split(), "--help"]}))'
    done = subprocess.run([sys.executable, '-c', script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f'usage: stylenorm {name} ')
    assert done.stdout.endswith('set()\n')


@pytest.mark.slow
@pytest.mark.parametrize('words', [['--help'], ['train', '--help'], ['prepare', 'synthia', '--help']], ids=' '.join)
def test_help_takes_less_than_a_second(words):
    def seconds():
        """Of the processor, which other programs disturb little."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, str(ROOT / 'tools/stylenorm.py'), *words], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(seconds() for _ in range(3)) < 1


def test_the_status_of_a_tool_is_that_of_the_command(tmp_path, shown, monkeypatch):
    assert status_of(stylenorm.main, ['prepare', 'gta5', str(tmp_path)]) == 2
    monkeypatch.chdir(tmp_path)
    assert 'up to date' not in shown('prepare', 'toy-streets', 'new', '--train', '1', '--val', '1', '--size', '64x32')
    assert 'up to date' in shown('prepare', 'toy-streets', 'new', '--train', '1', '--val', '1', '--size', '64x32')


def test_all_methods_are_listed(shown):
    lines = shown('methods').splitlines()
    assert lines[: len(ROWS)] == [f'{name:12}{method.summary}' for name, method in ROWS.items()]


@pytest.mark.parametrize('name', ROWS)
def test_a_method_is_explained_with_all_that_its_row_has(name, shown):
    text, method = shown('methods', name), ROWS[name]
    flat = ' '.join(text.split())
    assert all(part in flat for part in (method.summary, method.paper, ', '.join(method.sites)))
    docs = methods.argument_docs(method.layer)
    for argument, default in method.defaults.items():
        assert docs[argument], 'an argument without a word'
        assert f'{argument}={default!r} ' in flat
        assert docs[argument] in flat
    assert all(COMPANIONS[companion].cure in flat for companion in method.companions)
    assert f'recipe: {method.recipe or "none"}' in text


@pytest.mark.parametrize('name', ROWS)
@pytest.mark.some(4)
def test_the_examples_of_a_method_run(name):
    examples = methods.examples(name, ROWS[name])
    space = {'timm': timm, 'timm_stylenorm': timm_stylenorm, 'model': timm.create_model('resnet18', num_classes=4)}
    exec('import timm_stylenorm.recipes\n' + '\n'.join(examples['any module']), space)
    labels = {label.partition('.')[0] for label, _ in timm_stylenorm.style_layers(space['model'])}
    if ROWS[name].recipe is None:
        assert labels == {name}
        exec(examples['timm'][0].replace('resnet50', 'resnet18'), space)
    else:
        assert labels
        assert f'--recipe {ROWS[name].recipe} ' in examples['timm'][0]
    init_default_scope('mmseg')
    exec(examples['mmsegmentation'][0], space)
    assert MODELS.get(space['model'].pop('type'))
    assert list(space['model']) == ['recipe' if ROWS[name].recipe else 'style']


def test_configs_are_listed(shown):
    assert shown('configs').split() == list_configs()
    assert shown('configs', 'quickstart').split() == [name for name in list_configs() if 'quickstart' in name]


@pytest.mark.slow
def test_the_sites_of_a_model_are_listed_with_the_methods_that_fit(shown):
    text = shown('sites', 'resnet18')
    assert re.search(r'^  stage2 +1 +128 +layer2\.1$', text, re.M)
    assert re.search(r'^  convs +17 +64, 128, 256, 512 +conv1, layer1\.0\.conv1, \.\.\., layer4\.1\.conv2$', text, re.M)
    assert re.search(r'^  snr +fits$', text, re.M)
    assert re.search(r'^  bin +does not fit: .*has no batch norm$', shown('sites', 'convnext_atto'), re.M)
    assert 'layer2.0.conv2' in shown('sites', 'resnet18', '--modules')


def test_the_sites_of_a_config_are_those_of_what_a_style_would_change(shown, tmp_path):
    (tmp_path / 'styled.py').write_text(f"_base_ = '{config_root()}/{QUICK}'\nmodel = dict(style=dict(type='snr'))\n")
    name = str(tmp_path / 'styled.py')
    text = shown('sites', name)
    assert '(ResNetV1c)' in text
    assert re.search(r'^  snr +fits$', text, re.M), 'without the style of the config'
    assert type(sites.model_of('classification/resnet18_1xb64-500_fashion-mnist.py')).__name__ == 'ResNet'


def test_a_transformer_of_mmseg_has_rows():
    init_default_scope('mmseg')
    model = MODELS.build({'type': 'MixVisionTransformer', 'embed_dims': 8, 'num_layers': [1, 1, 1, 1]})
    rows = {row.name: row for row in timm_stylenorm.list_sites(model)}
    assert [rows[f'stage{i}'].modules for i in range(1, 5)] == [(f'layers.{i}.1.0',) for i in range(4)]
    fitting = fitting_methods(model)
    assert fitting['mixstyle'] is None
    assert 'has no batch norm' in fitting['bin']
