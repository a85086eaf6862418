"""tools/benchmark.py: what it measures, prints and writes, on tiny shapes."""

import json
from pathlib import Path

import benchmark
import pytest
import torch
from bench import measure
from bench.passes import DTYPES, pass_cells
from expected import LONELY
from since import WHOLE_GRAPHS, since
from tqdm import tqdm

from timm_stylenorm.methods import METHODS

pytestmark = LONELY

BAR = tqdm(disable=True)


def run(tmp_path, *arguments):
    """The written JSON of a quick run."""
    out = tmp_path / 'out'
    benchmark.main(['--quick', '--out', str(out), *arguments])
    return json.loads(out.with_suffix('.json').read_text())


def test_every_method_without_a_recipe_is_a_row():
    assert set(METHODS) <= set(benchmark.parse_args([]).layers)


def test_ratios_are_medians_of_rounds_without_the_first():
    times = iter([9, 900, 2, 4, 2, 6, 4, 40])  # base and layer: a warm-up, then ratios 2, 3 and 10
    clock = (value for duration in times for value in (0, duration))
    ((name, cell),) = measure.ratios({'base': int, 'layer': int}, 3, BAR, lambda: next(clock))
    assert (name, cell['ratio']) == ('layer', 3)
    assert 2 < cell['low'] < 3 < cell['high'] < 10


def test_steps_take_turns():
    order = []
    steps = {name: lambda name=name: order.append(name) for name in 'abc'}
    measure.ratios(steps, 2, BAR)
    assert order == list('abc') * 3


def test_tables_are_printed_and_written(tmp_path, capsys):
    page = tmp_path / 'page.md'
    page.write_text('before\n<!-- benchmark -->\nold\n<!-- /benchmark -->\nafter\n')
    sections = ['--sections', 'eager', 'saved', '--layers', 'padain', 'mixstyle', '--update', str(page)]
    result = run(tmp_path, *sections)
    eager, saved = result['tables']
    assert list(eager['rows']) == ['padain', 'mixstyle']
    assert eager['columns'] == ['NCHW 4x16x14x14', 'channels_last 4x16x14x14']
    assert all(0 < cell['low'] <= cell['ratio'] <= cell['high'] for cell in eager['rows']['padain'].values())
    assert saved['rows']['padain']['NCHW'] == pytest.approx(1, abs=0.05)
    assert saved['rows']['mixstyle']['channels_last'] < 0.05
    assert {'torch', 'cpu', 'threads', 'allocator'} <= result['environment'].keys()
    text = page.read_text()
    assert text.startswith('before\n')
    assert text.endswith('<!-- /benchmark -->\nafter\n')
    assert 'old' not in text
    assert benchmark.markdown(result) in text
    assert benchmark.markdown(result) in capsys.readouterr().out
    assert json.loads(page.with_suffix('.json').read_text()) == result


@pytest.mark.slow
@WHOLE_GRAPHS
def test_breaks_are_counted(tmp_path):
    result = run(tmp_path, '--sections', 'breaks', '--layers', 'padain', 'bin')
    assert result['tables'][0]['rows'] == {
        'padain': {'default arguments': 1, 'p=1': 0, 'branch_free': 0},
        'bin': {'default arguments': 0, 'p=1': 0, 'branch_free': 0},
    }


@since('torch', '2.4', 'nothing registers operators')
@pytest.mark.parametrize('name', ['padain', 'mixstyle', 'bin', 'domainnorm'])
def test_the_page_shows_the_passes_that_are_counted(name):
    page = Path(benchmark.__file__).parents[1] / 'docs/performance.md'
    table = page.read_text().partition('<!-- passes -->')[2].partition('<!-- /passes -->')[0]
    cells = [dict(pass_cells([name], dtype))[name] for dtype in DTYPES]
    assert f'| {name} | {" | ".join(cells)} |' in table, 'update it: python tools/benchmark.py --sections passes'


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
def test_a_gpu_that_is_not_there_is_named(tmp_path):
    with pytest.raises(SystemExit, match='--device cuda: torch finds no CUDA device'):
        run(tmp_path, '--device', 'cuda')


def test_a_page_without_marks_is_refused(tmp_path):
    page = tmp_path / 'page.md'
    page.write_text('nothing here\n')
    with pytest.raises(SystemExit, match='has no lines <!-- benchmark -->'):
        run(tmp_path, '--sections', 'saved', '--layers', 'mixstyle', '--update', str(page))
    assert page.read_text() == 'nothing here\n'


def test_an_unknown_layer_is_named_with_the_nearest(capsys):
    with pytest.raises(SystemExit):
        benchmark.parse_args(['--layers', 'padian'])
    assert "'padian'" in capsys.readouterr().err


def test_the_page_shows_its_numbers():
    page = Path(benchmark.__file__).parent.parent / 'docs' / 'performance.md'
    assert benchmark.markdown(json.loads(page.with_suffix('.json').read_text())) in page.read_text()


@pytest.mark.slow
def test_every_section_runs(tmp_path):
    result = run(tmp_path, '--layers', 'snr')
    titles = [table['title'] for table in result['tables']]
    assert sum('recycled' in title for title in titles) == 2
    assert sum('compiled' in title for title in titles) == 2
    assert sum('Training steps' in title for title in titles) == 1
    assert all('snr' in table['rows'] for table in result['tables'])
