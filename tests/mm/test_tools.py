"""The command lines of the tools: what they take, what their help says, and what they say when data are missing."""

import re
import runpy
import sys

import pytest

pytest.importorskip('mmengine')
import cli
import stylenorm
import train

from timm_stylenorm.runner.configs import config_root, find_config, list_configs
from timm_stylenorm.runner.terminal import QuietRunner

TOOLS = config_root().parent / 'tools'
SCRIPTS = sorted({'stylenorm.py', *(f'{tool.script}.py' for tool in stylenorm.COMMANDS.values())})


@pytest.fixture
def help_of(monkeypatch, capsys):
    def show(script):
        monkeypatch.setenv('COLUMNS', '80')
        monkeypatch.setattr(sys, 'argv', [script, '--help'])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(TOOLS / script), run_name='__main__')
        assert not ended.value.code
        return capsys.readouterr().out

    return show


def named_configs(text):
    folders = {name.split('/')[0] for name in list_configs()}
    return re.findall(rf'(?:{"|".join(folders)})/[^\s,;]+', text)


@pytest.mark.parametrize('script', SCRIPTS)
def test_config_names_in_a_tools_help_exist(script, help_of):
    text = help_of(script)
    names = named_configs(text)
    assert all(find_config(name) for name in names)
    assert names or script not in ('train.py', 'test.py')


def test_resume_does_not_swallow_the_config():
    args = train.parse_args(['--resume', 'a.py', '--amp'])
    assert (args.config, args.resume, args.resume_from) == ('a.py', True, None)
    assert train.parse_args(['a.py', '--resume-from', 'b.pth']).resume_from == 'b.pth'


@pytest.mark.parametrize(
    ('line', 'expected'),
    [([], (False, 'w.pth')), (['--resume'], (True, 'w.pth')), (['--resume-from', 'b.pth'], (True, 'b.pth'))],
    ids=['neither', 'newest', 'path'],
)
def test_what_resume_does_to_the_config(tmp_path, monkeypatch, line, expected):
    needed = 'model = train_dataloader = train_cfg = optim_wrapper = {}'
    (tmp_path / 'c.py').write_text(f"{needed}\nload_from = 'w.pth'\n")
    seen = []
    monkeypatch.setattr(QuietRunner, 'from_cfg', lambda cfg: seen.append(cfg) or pytest.fail('stop here'))
    with pytest.raises(pytest.fail.Exception):
        train.main([str(tmp_path / 'c.py'), *line])
    assert (bool(seen[0].get('resume')), seen[0].load_from) == expected


def test_train_says_which_data_folder_is_missing_and_how_to_get_it(tmp_path, monkeypatch):
    pytest.importorskip('mmseg')
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'data').mkdir()
    with pytest.raises(SystemExit, match=r'data/toy_streets.*does not exist.*prepare_toy_streets'):
        train.main(['quickstart/deeplabv3plus_r18-small_1xb8-240_toy-streets.py'])


@pytest.mark.parametrize(
    ('root', 'how'),
    [
        ('/nowhere/datasets/fashion-mnist', 'apt-get install dataset-fashion-mnist'),
        ('data/toy_streets/gta5', 'python tools/prepare_toy_streets.py'),
        ('data/gta5', 'python tools/prepare_gta5.py data/gta5'),
        ('data/pacs', 'DOMAIN/CLASS'),
        ('data/synthia', 'python tools/prepare_synthia.py data/synthia'),
        ('data/bdd100k', 'docs/datasets.md'),
        ('data/mapillary', 'python tools/prepare_mapillary.py data/mapillary'),
        ('data/acdc', 'rgb_anon_trainvaltest.zip'),
        ('data/dark_zurich', 'Dark_Zurich_val_anon.zip'),
        ('data/night_driving', 'NighttimeDrivingTest.zip'),
        ('data/else', 'see docs/datasets.md'),
    ],
)
def test_each_kind_of_missing_data_has_its_hint(tmp_path, monkeypatch, root, how):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError) as caught:
        cli.check_data({'dataset': {'root': root}}, 'c.py')
    assert how in str(caught.value).partition('To get it: ')[2]


def test_folders_of_the_domains_that_are_tested_on_are_looked_for_and_no_others(tmp_path):
    (tmp_path / 'here').mkdir()
    domains = {'fog': {'data_root': str(tmp_path / 'here')}, 'rain': {'data_root': str(tmp_path / 'acdc')}}
    for only in ('fog', ['fog']):
        cli.check_data({'dataset': {'type': 'MultiDomainDataset', 'domains': domains, 'only': only}}, 'c.py')
    for only in (None, ['fog', 'rain']):
        with pytest.raises(FileNotFoundError, match=r"'.*/acdc', which does not exist"):
            cli.check_data({'dataset': {'type': 'MultiDomainDataset', 'domains': domains, 'only': only}}, 'c.py')


def test_the_sections_and_scripts_that_hints_name_exist():
    assert '\n## Data\n' in (config_root().parent / 'docs/datasets.md').read_text()
    scripts = {name for how in cli.SOURCES.values() for name in re.findall(r'tools/(\w+\.py)', how)}
    assert scripts
    assert scripts <= set(SCRIPTS)


def test_an_archive_or_a_download_may_stand_in_place_of_a_data_folder(tmp_path):
    (tmp_path / 'images.tar').touch()
    cli.check_data({'dataset': {'root': str(tmp_path / 'images.tar')}}, 'c.py')
    cli.check_data({'dataset': {'root': str(tmp_path / 'absent'), 'download': True}}, 'c.py')
    with pytest.raises(FileNotFoundError, match=r'absent\.tar.*does not exist'):
        cli.check_data({'dataset': {'root': str(tmp_path / 'absent.tar')}}, 'c.py')
