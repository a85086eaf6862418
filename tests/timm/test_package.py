"""The package as a whole: which way imports run, how long files are, what README and wheel say."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import timm_stylenorm
from timm_stylenorm import installed
from timm_stylenorm.__main__ import environment, main, method_table

ROOT = Path(__file__).parents[2]

# The rooms of timm_stylenorm, floor by floor: each imports from floors below it and from itself.
FLOORS = (
    {'datafiles', 'errors', 'files', 'functional', 'installed', 'patches', 'trust', 'workers'},
    {'torch_host'},
    {'host'},
    {'checkpoints', 'layers', 'saver'},
    {'methods'},
    {'surgery'},
    {'adapt', 'dual_bn', 'gates', 'models', 'whitening'},
    {'convert', 'evaluation', 'recipes'},
    {'options', 'runner', 'tasks'},
    {'__init__', '__main__', 'classification', 'hooks', 'launch'},
)


def imports(path):
    """Project modules that a file imports, as dotted names."""
    package = path.relative_to(ROOT).with_suffix('').parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = '.'.join(package[: len(package) - node.level])
            yield from [f'{base}.{node.module}'] if node.module else [f'{base}.{a.name}' for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def room_of(file):
    return file.relative_to(ROOT / 'timm_stylenorm').with_suffix('').parts[0]


def test_no_room_imports_from_its_own_floor_or_from_above():
    files = list(ROOT.glob('timm_stylenorm/**/*.py'))
    assert {room_of(file) for file in files} == set().union(*FLOORS), 'a room without a floor'
    for level, floor in enumerate(FLOORS):
        below = set().union(*FLOORS[:level])
        for file in (f for f in files if room_of(f) in floor):
            rooms = {m.split('.')[1] for m in imports(file) if m.startswith('timm_stylenorm.')} - {room_of(file)}
            rooms -= {'__version__'} if room_of(file) == '__main__' else set()
            assert rooms <= below, f'{file} imports from {sorted(rooms - below)}'


def test_only_the_runners_rooms_import_mmengine():
    for file in ROOT.glob('timm_stylenorm/**/*.py'):
        if room_of(file) not in ('runner', 'classification'):
            assert not [m for m in imports(file) if m.split('.')[0] in ('mmengine', 'mmcv')], file


def test_the_timm_side_never_imports_the_mmseg_side():
    for file in ROOT.glob('timm_stylenorm/**/*.py'):
        assert not [m for m in imports(file) if m.startswith(('mmseg', 'mmseg_stylenorm'))], file


@pytest.mark.slow
def test_importing_the_timm_side_loads_neither_mmengine_nor_mmseg():
    script = "import sys, timm_stylenorm; print({m.split('.')[0] for m in sys.modules} & {'mmengine', 'mmcv', 'mmseg'})"
    assert subprocess.run([sys.executable, '-c', script], capture_output=True, check=True).stdout == b'set()\n'


PYTHON = ('timm_stylenorm', 'mmseg_stylenorm', 'tools')
# Calls that read a file of others and could run what is in it.
READERS = {'load_state_dict_from_url', 'load_state_dict_from_hf', 'resume_checkpoint'}
MODULES = {'torch.load': 'torch', 'timm.models.load_checkpoint': 'timm', 'torch.hub.load_state_dict_from_url': 'torch'}


def reads_a_file(call, names):
    """Whether a call is one of torch's or timm's readers; `names` are what a file has imported from them."""
    function = ast.unparse(call.func)
    return function in MODULES or function.rpartition('.')[2] in READERS or function in names


def test_every_reader_of_torch_and_timm_is_told_to_read_weights_only():
    found = []
    for file in [f for folder in PYTHON for f in ROOT.glob(f'{folder}/**/*.py')]:
        tree = ast.parse(file.read_text())
        froms = [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and not n.level]
        names = {
            alias.asname or alias.name
            for node in froms
            if node.module.split('.')[0] in ('torch', 'timm', 'mmengine')
            for alias in node.names
            if alias.name in ('load', 'load_checkpoint', 'load_state_dict')
        }
        for call in (n for n in ast.walk(tree) if isinstance(n, ast.Call)):
            if reads_a_file(call, names):
                given = {k.arg: ast.unparse(k.value) for k in call.keywords}
                found.append((file.name, call.lineno))
                assert given.get('weights_only') == 'True', f'{file}:{call.lineno} {ast.unparse(call)}'
    assert {'launch.py', 'checkpoint.py', 'checkpoints.py', 'training.py'} <= {name for name, _ in found}


# Private names whose absence is an answer and not a surprise; everything else would hide that a host has changed.
MAY_BE_ABSENT = {
    '_orig_mod',  # of modules that torch has compiled, and of no others
}


def test_a_private_name_of_a_host_is_asked_for_without_a_default():
    for file in [f for folder in PYTHON for f in ROOT.glob(f'{folder}/**/*.py')]:
        for call in (n for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, ast.Call)):
            function = ast.unparse(call.func)
            asks = (function == 'getattr' and len(call.args) == 3) or function == 'hasattr'
            name = ast.literal_eval(call.args[1]) if asks and isinstance(call.args[1], ast.Constant) else ''
            assert not re.match('_[a-zA-Z]', name) or name in MAY_BE_ABSENT, f'{file}:{call.lineno} {ast.unparse(call)}'


def test_types_say_what_things_are():
    files = [file for folder in ('timm_stylenorm', 'mmseg_stylenorm') for file in ROOT.glob(f'{folder}/**/*.py')]
    anything = {
        (file, node.lineno)
        for file in files
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Name) and node.id == 'Any'
    }
    assert len(anything) <= 60, sorted(anything)
    assert sum(file.read_text().count('# type: ignore') for file in files) <= 20


def test_files_stay_short():
    for folder in ('timm_stylenorm', 'mmseg_stylenorm', 'tools', 'configs'):
        for file in ROOT.glob(f'{folder}/**/*.py'):
            assert len(file.read_text().splitlines()) <= 300, file


def test_the_environment_names_what_a_bug_report_needs(capsys):
    assert f'stylenorm {timm_stylenorm.__version__}' in environment()
    main([])
    shown = capsys.readouterr().out
    assert method_table() in shown
    assert re.search(r'^torch \d', shown, re.M)


def pins(text):
    """name -> version, of lines or strings such as `torch==2.6.0` and `timm>=1.0.26`."""
    return dict(re.findall(r'([\w-]+)[=>]=([\d.]+)', text))


def test_the_lowest_versions_are_those_that_setup_names():
    floors, lowest = (pins((ROOT / file).read_text()) for file in ('setup.py', 'constraints/lowest.txt'))
    assert {'torch', 'torchvision', 'timm'} <= {*floors} & {*lowest}
    assert [name for name, version in floors.items() if lowest.get(name, version) != version] == []
    assert {name: floors[name] for name in installed.LEAST} == installed.LEAST
    assert set(installed.EXTRAS.values()) <= extras()


def extras():
    """The extras of setup.py."""
    return {*re.findall(r"^        '([\w-]+)': [A-Z\[]", (ROOT / 'setup.py').read_text(), re.M)}


def test_the_version_is_the_same_everywhere():
    version = timm_stylenorm.__version__
    assert f'version: {version}\n' in (ROOT / 'CITATION.cff').read_text()
    assert re.search(rf'^## \[{re.escape(version)}\]', (ROOT / 'CHANGELOG.md').read_text(), re.M)


def test_workflows_and_guides_name_only_targets_that_exist():
    targets = set(re.findall(r'^([\w-]+):', (ROOT / 'Makefile').read_text(), re.M))
    for file in ('.github/workflows/test.yml', 'CONTRIBUTING.md', 'README.md', '.ci/run'):
        named = set(re.findall(r'(?:^|run: |`)make ([\w-]+)', (ROOT / file).read_text(), re.M))
        assert named, file
        assert named <= targets, file


def test_the_guide_names_only_files_that_exist():
    guide = (ROOT / 'CONTRIBUTING.md').read_text()
    paths = set(re.findall(r'`((?:timm_stylenorm|mmseg_stylenorm|tests)/[\w/.]+)`', guide))
    assert len(paths) > 10
    assert [path for path in paths if not (ROOT / path).exists()] == []


CONVERTERS = tuple(f'prepare_{name}' for name in ('cityscapes', 'gta5', 'mapillary', 'nthu', 'synthia', 'toy_streets'))


@pytest.mark.parametrize('tool', CONVERTERS)
def test_converters_start_without_torch_and_hosts(tool):
    hosts = "{'torch', 'mmengine', 'mmseg'} & {*sys.modules}"
    script = f"import sys; sys.path.insert(0, 'tools'); import {tool}; print({hosts})"
    assert subprocess.run([sys.executable, '-c', script], cwd=ROOT, capture_output=True).stdout == b'set()\n'


def test_helpers_of_the_tools_read_no_command_lines():
    helpers = [file for file in ROOT.glob('tools/*/*.py') if file.read_text()]
    assert helpers
    for file in helpers:
        assert 'argparse' not in set(imports(file)), file


@pytest.mark.parametrize(
    ('job', 'name'),
    [
        ("change a method's formula", '_snr_rule'),
        ('change a site', "'stem.pool'"),
        ('give an architecture names', "'wide_resnet*_2'"),
        ('change a patch of a host', 'use_reentrant=False)'),
        ("change a checkpoint's key map", 'style_reid_laye'),
        ("change a street class's id", "('traffic light', 19, 6,"),
    ],
)
def test_a_reader_finds_where_a_job_is_done(job, name):
    """The name that one would look for is in two files at most."""
    files = [file for folder in PYTHON for file in ROOT.glob(f'{folder}/**/*.py')]
    found = [file for file in files if name in file.read_text()]
    assert 1 <= len(found) <= 2, (job, found)
