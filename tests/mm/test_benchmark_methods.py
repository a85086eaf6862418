"""tools/benchmark_methods.py: what it makes of finished, failed and missing runs."""

import json
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / 'tools'
import benchmark_methods as tool  # noqa: E402


@pytest.fixture
def jobs(tmp_path):
    made = [tool.Job(b, m, s, 5, tmp_path) for s in (0, 1) for m in ('baseline', 'snr') for b in tool.COLUMNS]
    for job in made:
        job.out.parent.mkdir(parents=True, exist_ok=True)
        value = 10.0 * (1 + job.seed) + (5 if job.method == 'snr' else 0)
        if job.benchmark == 'toy_streets':
            job.out.mkdir()
            (job.out / 'results.json').write_text(json.dumps({'results': [dict(seen=value, unseen=value / 2)]}))
        else:
            accuracy = dict(clean=value, dark=value - 2, blur=value - 4)
            file = job.out.with_name(f'{job.out.name}.json')
            file.write_text(json.dumps({'runs': [dict(accuracy=accuracy)]}))
    return made


def test_means_and_deviations(jobs):
    table = tool.summarise(jobs)
    assert table['baseline'] == {
        'clean': (15.0, pytest.approx(7.071, abs=1e-3)),
        'shifted': (12.0, pytest.approx(7.071, abs=1e-3)),
        'seen': (15.0, pytest.approx(7.071, abs=1e-3)),
        'unseen': (7.5, pytest.approx(3.536, abs=1e-3)),
    }
    lines = tool.markdown(table, list(tool.COLUMNS)).splitlines()
    assert lines[2] == '| baseline | 15.0 ± 7.1 | 12.0 ± 7.1 | 15.0 ± 7.1 | 7.5 ± 3.5 |'
    assert tool.summarise(jobs[:2])['baseline']['clean'] == (10.0, 0.0), 'one seed has no spread'


def test_a_picture_even_if_runs_are_missing(jobs, tmp_path):
    tool.plot(tool.summarise(jobs[:3]), list(tool.COLUMNS), tmp_path / 'plot.png')
    assert (tmp_path / 'plot.png').stat().st_size > 5000


def test_a_failed_run_is_named_and_the_others_go_on(tmp_path, monkeypatch, capsys):
    def command(job):
        if job.method == 'snr':
            return [sys.executable, '-c', 'raise SystemExit(3)']
        result = json.dumps({'runs': [dict(accuracy=dict(clean=80.0, dark=60.0))]})
        return [
            sys.executable,
            '-c',
            f'from pathlib import Path; Path({str(job.out)!r} + ".json").write_text({result!r})',
        ]

    monkeypatch.setattr(tool.Job, 'command', command)
    argv = [
        '--methods',
        'baseline',
        'snr',
        '--seeds',
        '0',
        '--benchmarks',
        'fashion_mnist',
        '--work-dir',
        str(tmp_path),
    ]
    with pytest.raises(SystemExit, match=r'snr, seed 0, fashion_mnist: exit code 3, see .*snr-0\.log'):
        tool.main(argv)
    assert '| baseline | 80.0 ± 0.0 | 60.0 ± 0.0 |' in capsys.readouterr().out
    assert list(json.loads((tmp_path / 'summary.json').read_text())['table']) == ['baseline']


def test_unknown_methods_are_refused():
    with pytest.raises(SystemExit):
        tool.parse_args(['--methods', 'padian'])


def test_every_run_is_one_method_and_one_seed(tmp_path):
    command = tool.Job('toy_streets', 'isw', 2, 7, tmp_path).command()
    assert command[1:] == [
        str(TOOLS / 'demo.py'), '--methods', 'isw', '--seeds', '2', '--iters', '7',
        '--out', str(tmp_path / 'toy_streets' / 'isw-2'),
    ]  # fmt: skip
