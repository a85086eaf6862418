"""What writes a file does so whole, and what starts a process lets it end with its parent: nobody does it otherwise."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted(f for folder in ('timm_stylenorm', 'mmseg_stylenorm', 'tools') for f in ROOT.glob(f'{folder}/**/*.py'))
# Names of functions and methods that write to a path; `open` and what only os and shutil have come on top.
WRITERS = {
    'dump', 'imwrite', 'save', 'save_file', 'save_image', 'savefig', 'savetxt', 'savez', 'savez_compressed', 'to_csv',
    'tofile', 'torch_save', 'touch', 'write_bytes', 'write_png', 'write_text',
}  # fmt: skip
OF_MODULES = {'os': {'link', 'open', 'rename', 'replace', 'symlink'}, 'shutil': {'copy', 'copy2', 'copyfile', 'move'}}
WHOLE = 'atomic_write'
ALLOWED = {  # file: {function: why it may}
    'timm_stylenorm/files.py': {
        'atomic_write': 'the one that writes whole',
        '_take': 'the file of a claim, which means something only while it is locked',
        '_sync': 'opens what is written',
    },
    'timm_stylenorm/saver.py': {'replace': 'gives a whole file its name'},
    'timm_stylenorm/runner/saving.py': {
        'save_checkpoint': "mmengine's own, for a store that is no file system",
        'run': "mmengine's own, which is given the temporary file of another",
        'open_whole': 'what mmengine reads, or appends to',
    },
    'mmseg_stylenorm/uda/pseudo_labels.py': {
        'write_hard': 'is given a temporary file',
        'write_soft': 'is given a temporary file',
    },
    'mmseg_stylenorm/evaluation/report.py': {
        '_draw_scores': 'is given a temporary file',
        '_draw_confusion': 'is given a temporary file',
    },
    'tools/bench/engine.py': {'_run': 'the log of a run, which grows with it'},
    'tools/stylenorm.py': {'main': 'os.devnull'},
}
STARTERS = {
    'DataLoader', 'Popen', 'Pool', 'Process', 'ProcessPoolExecutor', 'check_call', 'check_output', 'fork', 'popen',
     'start_processes', 'system', 'create_loader',
}  # fmt: skip
MAY_START = {  # file: why
    'tools/processes.py': 'the one that starts them',
    'timm_stylenorm/evaluation/images.py': 'end_with_parent',
    'timm_stylenorm/runner/answers.py': 'takes over the worker_init_fn of a loader of the Runner',
    'timm_stylenorm/runner/isw.py': 'end_with_parent',
    'timm_stylenorm/runner/loaders.py': 'takes over the worker_init_fn of a loader of the Runner',
    'tools/make_pseudo_labels.py': 'end_with_parent',
    'tools/styliser/training.py': 'end_with_parent',
}


HELPERS = {
    'atomic_write', 'run_parallel', 'save_atomic', 'save_figure', 'save_image', 'save_png', 'write_json',
    'write_state_dict', 'write_text',
}  # fmt: skip
SHARE = {  # tools that write, and claim no folder: why not
    'adabn.py': 'writes one file, and refuses one that is there',
    'benchmark.py': 'writes single files at its end',
    'check_data.py': 'reads, and writes its reports at the end',
    'convert_checkpoint.py': 'writes one file, and refuses one that is there',
    'visualize_style.py': 'writes one picture',
}


def functions(tree):
    """(innermost function, statement) of everything in a file."""
    stack = [('', tree)]
    while stack:
        name, node = stack.pop()
        for child in ast.iter_child_nodes(node):
            inner = child.name if isinstance(child, ast.FunctionDef) else name
            yield inner, child
            stack.append((inner, child))


def called(call):
    """Owner and name of what is called."""
    owner, _, name = ast.unparse(call.func).rpartition('.')
    return owner, name


def opens_to_write(call):
    owner, name = called(call)
    if name != 'open' or owner in ('os', 'Image'):
        return False
    mode = next((k.value for k in call.keywords if k.arg == 'mode'), None)
    place = 0 if owner and owner not in ('io', 'builtins') else 1
    mode = call.args[place] if mode is None and len(call.args) > place else mode
    return isinstance(mode, ast.expr) and (not isinstance(mode, ast.Constant) or set('wax+') & set(str(mode.value)))


def writes(call):
    owner, name = called(call)
    if name in ('replace', 'rename') and owner not in OF_MODULES and len(call.args) == 1 and not call.keywords:
        return True  # of a path; that of a string has two
    by_name = name in WRITERS and owner != 'safetensors.torch'
    return by_name or name in OF_MODULES.get(owner, ()) or opens_to_write(call)


def temporary(tree):
    """Names that stand for a temporary file of `atomic_write`, or for a buffer."""
    items = [item for n in ast.walk(tree) if isinstance(n, ast.With) for item in n.items]
    names = {ast.unparse(i.optional_vars) for i in items if i.optional_vars and called_by_name(i.context_expr, WHOLE)}
    buffers = [n for n in ast.walk(tree) if isinstance(n, ast.Assign) and called_by_name(n.value, 'BytesIO')]
    return names | {target.id for n in buffers for target in n.targets}


def called_by_name(node, name):
    return isinstance(node, ast.Call) and called(node)[1] == name


def other_writers(source):
    """(function, line, call) of what writes a file otherwise than by a temporary one."""
    tree = ast.parse(source)
    own = {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)} | {
        a.name for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module == 'disk' for a in n.names
    }
    names = temporary(tree)
    for function, node in functions(tree):
        if not isinstance(node, ast.Call) or not writes(node):
            continue
        used = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
        if not used & names and not (isinstance(node.func, ast.Name) and node.func.id in own):
            yield function, node.lineno, ast.unparse(node)


def starters(source):
    """(line, call) of what starts processes, or may."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            owner, name = called(node)
            made = {a.id for a in node.args if isinstance(a, ast.Name)} if name == 'partial' else {name}
            of_module = owner == 'subprocess' or (owner == 'multiprocessing' and name != 'parent_process')
            if made & STARTERS or of_module:
                yield node.lineno, ast.unparse(node)


@pytest.mark.parametrize('file', FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_files_are_written_whole(file):
    allowed = ALLOWED.get(str(file.relative_to(ROOT)), {})
    found = list(other_writers(file.read_text()))
    assert [row for row in found if row[0] not in allowed] == []
    assert {row[0] for row in found} == {*allowed} - {'atomic_write', '_sync'} or file.name == 'files.py'


def test_a_tool_that_fills_a_folder_claims_it():
    lacking = set()
    for file in ROOT.glob('tools/*.py'):
        calls = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)]
        names = {called(call)[1] for call in calls}
        converts = 'from labels.pairs import' in file.read_text() and 'convert' in names  # which claims
        if file.stem not in ('disk', 'processes') and names & HELPERS and not (converts or 'claimed' in names):
            lacking.add(file.name)
    assert lacking == SHARE.keys()


def test_processes_end_with_their_parent():
    found = {str(f.relative_to(ROOT)): list(starters(f.read_text())) for f in FILES}
    found = {file: calls for file, calls in found.items() if calls}
    assert found.keys() == MAY_START.keys(), found


@pytest.mark.parametrize(
    'line',
    [
        "open(file, 'w').write(text)",
        "open(file, mode='ab')",
        'open(file, mode)',
        "file.open('x')",
        'file.write_text(text)',
        'np.savez(file, a=a)',
        'torch.save(state, file)',
        'cv2.imwrite(str(file), a)',
        'figure.savefig(file, dpi=100)',
        'image.save(file)',
        'json.dump(a, stream)',
        "part.replace(out / 'a')",
        'os.replace(part, out)',
        'shutil.copy2(a, b)',
    ],
)
def test_another_writer_would_be_found(line):
    assert [row[2] for row in other_writers(f'def f(file):\n    {line}\n')]


@pytest.mark.parametrize('line', ['open(file)', "open(file, 'rb')", "text.replace('a', 'b')", 'file.read_text()'])
def test_readers_are_none(line):
    assert not [*other_writers(f'def f(file):\n    {line}\n')]


@pytest.mark.parametrize(
    'line', ['ProcessPoolExecutor(2)', 'partial(DataLoader, d)', 'subprocess.run([])', 'DataLoader(d)', 'mp.Process()']
)
def test_another_starter_would_be_found(line):
    assert [*starters(line)]
