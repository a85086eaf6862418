"""Comparisons: which runs a table needs, what their configs say, how they are run, and what becomes of results."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip('mmseg')
from bench import engine, plan, presets
from bench.reports import publish_comparison, publish_methods
from bench.rows import Row, Study, method_rows
from bench.tables import SECONDS, grid, markdown, summarise
from figures.spread import draw

FASHION = 'classification/resnet18_1xb64-500_fashion-mnist.py'
STREETS = 'quickstart/deeplabv3plus_r18-small_1xb8-240_toy-streets.py'
PACS = 'classification/resnet18_1xb64-50e_pacs.py'
NEEDS_SNR = {'baseline': Row('a.py'), 'snr': Row('a.py', start='baseline'), 'dsu': Row('a.py')}


@pytest.fixture
def config_of(monkeypatch):
    """`plan.config_of`, which does not ask for data."""
    monkeypatch.setattr(plan, 'check_data', lambda *_: None)
    return plan.config_of


def results(seeds=(0, 1)):
    return [
        {'study': 'a', 'method': method, 'seed': s, 'scores': dict(seen=m + 10 * s, b=20.0, c=m + s), 'seconds': 9 + s}
        for method, m in (('baseline', 10.0), ('snr', 15.0))
        for s in seeds
    ]


STUDY = Study('a', NEEDS_SNR, ['baseline', 'snr'])


def test_a_table_has_means_and_sample_deviations_and_the_mean_of_the_domains_not_seen():
    table = summarise(results(), STUDY)
    assert list(table['snr']) == ['seen', 'b', 'c', 'mean of others', SECONDS]
    assert table['baseline']['seen'] == (15.0, pytest.approx(7.0711, abs=1e-4))
    assert table['baseline']['mean of others'] == (15.25, pytest.approx(0.3536, abs=1e-4))
    lines = grid('method', table, {'seen': 'seen mIoU', SECONDS: SECONDS}, results())
    assert markdown(lines).splitlines() == [
        '| method | seen mIoU | training, s |', '|---|---:|---:|', '| baseline | 15.0 ± 7.1 | 10 ± 1 |',
        '| snr | 20.0 ± 7.1 | 10 ± 1 |',
    ]  # fmt: skip


def test_one_seed_is_shown_without_a_spread():
    one = results((0,))
    assert grid('', summarise(one, STUDY), {'seen': ''}, one)[1:] == [['baseline', '10.0'], ['snr', '15.0']]


def test_the_summary_has_single_results_and_a_picture_even_if_runs_are_missing(tmp_path, config_of):
    run = SimpleNamespace(cfg=config_of(Row(STREETS)))
    text = publish_comparison(STUDY, tmp_path / 'new/summary')(results()[:-1], [run])
    assert '| snr | 15.0 ± 0.0 | 20.0 ± 0.0 |' in text
    assert (tmp_path / 'new/summary.md').read_text() == text + '\n'
    assert json.loads((tmp_path / 'new/summary.json').read_text())['results'] == results()[:-1]
    assert (tmp_path / 'new/summary.png').stat().st_size > 5000
    draw({'a': {'snr': {'x': (1.0, 0.0)}}, 'b': {'dsu': {'y': (2.0, 0.0)}}}, tmp_path / 'two.png')
    assert (tmp_path / 'two.png').stat().st_size > 5000


def test_the_table_of_all_methods_has_one_column_for_the_shifts(tmp_path):
    text = publish_methods([STUDY], tmp_path / 'summary')(results((0,)), [])
    assert '| method (seeds 0) | a, seen | a, mean of others |' in text


def test_a_method_is_added_to_the_baseline_with_arguments_after_a_colon():
    arguments = {'padain': ['p=0.05']}
    rows = method_rows(Row('a.py', iters=8), ["padain:p=0.1,sites=('stem', 'stage1')", 'advbn', 'adabn'], arguments)
    assert rows["padain:p=0.1,sites=('stem', 'stage1')"].words == (
        '--style', 'padain', 'p=0.05', 'p=0.1', "sites=('stem', 'stage1')",
    )  # fmt: skip
    assert rows['advbn'].words == ('--recipe', 'advbn')
    assert (rows['baseline'].words, rows['baseline'].start) == ((), None)
    assert rows['adabn'] == Row('a.py', iters=0, start='baseline', adabn={})
    with pytest.raises(ValueError, match='the baseline takes no arguments'):
        method_rows(Row('a.py'), ['baseline:p=1'], {})


def test_fine_tuning_starts_from_the_baseline_as_it_is(config_of):
    rows = method_rows(Row(FASHION, iters=100), ['snr', 'adabn'], {}, fine_tune=50)
    assert (rows['start'].iters, rows['start'].start) == (100, None)
    assert {rows[name].start for name in ('baseline', 'snr')} == {'start'}
    assert rows['adabn'].start == 'baseline'
    cfg = config_of(rows['snr'])
    assert (cfg.optim_wrapper.optimizer.lr, cfg.train_cfg.max_iters) == (pytest.approx(0.005), 50)


def test_another_length_has_a_schedule_of_the_same_shape(config_of):
    cfg = config_of(Row(FASHION, iters=50))
    assert [(part.begin, part.end) for part in cfg.param_scheduler] == [(0, 10), (10, 50)]
    assert [(part.begin, part.end) for part in config_of(Row(FASHION, iters=1)).param_scheduler] == [(0, 1), (0, 1)]


def test_a_config_that_trains_by_epochs_is_compared_by_its_own_length(config_of):
    assert config_of(Row(PACS)).train_cfg.max_epochs == 50
    with pytest.raises(ValueError, match=r'--cfg-options train_cfg\.max_epochs=N'):
        config_of(Row(PACS, iters=3))


def test_a_training_has_no_validation_and_keeps_its_last_checkpoint(config_of):
    cfg = config_of(Row(FASHION, options=('default_hooks.checkpoint.save_best=accuracy/top1',)))
    assert cfg.val_dataloader is cfg.val_cfg is cfg.val_evaluator is None
    assert cfg.default_hooks.checkpoint.max_keep_ckpts == 1
    assert 'save_best' not in cfg.default_hooks.checkpoint


def test_a_test_that_cannot_be_compared_is_refused(config_of):
    with pytest.raises(ValueError, match=r'tested by CityscapesMetric; what can be compared are TopK'):
        config_of(Row(STREETS, options=('test_evaluator.type=CityscapesMetric',)))


def test_scores_are_told_by_domain(config_of):
    both = config_of(Row(STREETS))
    assert plan.known_domains(both) == ['seen', 'unseen']
    told = {'seen/mIoU': 40.0, 'unseen/mIoU': 20.0, 'mean/mIoU': 30.0, 'seen/aAcc': 1.0}
    assert plan.scores_of(told, both) == {'seen': 40.0, 'unseen': 20.0}
    pacs = config_of(Row(PACS))
    told = {'accuracy/top1': 1.0, 'accuracy/mean_top1': 2.0, 'accuracy/photo/top1': 3.0}
    assert plan.scores_of(told, pacs) == {'photo': 3.0}
    assert plan.scores_of({'accuracy/top1': 1.0}, pacs) == {'test': 1.0}


def test_domains_come_in_the_order_of_the_config(config_of, tmp_path):
    run = plan.Run('a', 'snr', 0, Row(FASHION), config_of(Row(FASHION)), tmp_path)
    scores = dict.fromkeys(sorted(plan.known_domains(run.cfg)), 1.0)
    run.result_file.write_text(json.dumps({'scores': scores, 'seconds': 1.0}))
    assert list(run.result()['scores'])[:3] == ['clean', 'contrast', 'bright']


def test_what_is_seen_is_told_by_the_command_line_or_the_config(config_of):
    assert plan.seen_domains(Row(FASHION), None) == ('clean',)
    assert plan.seen_domains(Row(FASHION), ['dark']) == ('dark',)
    assert plan.seen_domains(Row(STREETS), None) == ('seen',)
    with pytest.raises(ValueError, match="unknown domain 'drak'; did you mean 'dark'"):
        plan.seen_domains(Row(FASHION), ['drak'])


def test_runs_are_known_by_what_their_config_says_and_not_by_its_place(config_of, tmp_path):
    def names(folder, **row):
        rows = {'baseline': Row(FASHION, **row), 'adabn': Row(FASHION, iters=0, start='baseline', adabn={}, **row)}
        return [run.folder.name for run in plan.plan(Study('a', rows, ['adabn']), [0, 1], tmp_path / folder)]

    first = names('x')
    assert [name[:-9] for name in first] == ['baseline-seed0', 'adabn-seed0', 'baseline-seed1', 'adabn-seed1']
    assert len({name[-8:] for name in first}) == 4
    assert names('y') == first
    changed = names('x', options=('optim_wrapper.optimizer.lr=0.1',))
    assert not set(changed) & set(first), 'what starts from another baseline is another run, too'


def test_a_config_of_a_method_itself_is_taken(config_of):
    rows = presets.toy_streets(['isw', 'snr']).rows
    hooks = [hook for hook in config_of(rows['isw']).custom_hooks if hook['type'] == 'ISWHook']
    assert [hook.begin for hook in hooks] == [24]
    assert rows['snr'].config == STREETS


WORKS = """
import json, sys, time
from pathlib import Path
folder = Path(sys.argv[1])
name = folder.name
with Path(sys.argv[1], '../order').open('a') as order: order.write(name + ' ')
if name.startswith('snr') and (folder / '../broken').exists(): raise SystemExit('no such site')
(folder / 'trained.json').write_text('{"seconds": 1.0}')
(folder / 'last.pth').touch()
(folder / 'result.json').write_text(json.dumps({'scores': {'seen': 80.0, 'unseen': 60.0}, 'seconds': 1.0}))
sys.stdout.write('.' * 100)
"""


@pytest.fixture
def compare(tmp_path, monkeypatch):
    """Compares the rows of `NEEDS_SNR`, whose runs only pretend; returns results, and what was run, in order."""
    begin = engine.start
    monkeypatch.setattr(engine, 'start', lambda line, **k: begin([sys.executable, '-c', WORKS, line[-1]], **k))

    def runs(study, seeds, work_dir):
        made = {}
        for seed in seeds:
            for name, row in study.rows.items():
                start = made[row.start, seed] if row.start else None
                cfg = SimpleNamespace(pretty_text='', test_dataloader=SimpleNamespace(dataset={}))
                made[name, seed] = plan.Run('a', name, seed, row, cfg, work_dir / f'{name}-{seed}', start)
        return list(made.values())

    monkeypatch.setattr(engine, 'plan', runs)

    def run(shown=('snr', 'dsu'), seeds=(0,), jobs=1, **options):
        (tmp_path / 'order').write_text('')
        published = []

        def publish(found, runs):
            published.append(found)
            return f'{len(found)} results'

        try:
            engine.compare([Study('a', NEEDS_SNR, shown)], seeds, tmp_path, jobs, publish, **options)
            end = ''
        except SystemExit as exit:
            end = str(exit)
        return published, end, (tmp_path / 'order').read_text().split()

    return run


def test_a_failed_run_is_named_with_its_reason_and_the_others_go_on(compare, tmp_path):
    (tmp_path / 'broken').touch()
    published, end, _ = compare()
    [dsu] = published[-1]
    assert (dsu['method'], dsu['scores']) == ('dsu', {'seen': 80.0, 'unseen': 60.0})
    assert end == f'failed:\na, snr, seed 0: exit code 1, no such site, see {tmp_path}/snr-0/log.txt'
    (tmp_path / 'broken').unlink()
    assert compare()[2] == ['snr-0'], 'only what failed is run again'


@pytest.mark.parametrize('jobs', [1, 3])
def test_seeds_come_one_after_the_other_and_starts_before_what_starts_from_them(compare, jobs):
    (*_, found), _, order = compare(seeds=(0, 1), jobs=jobs)
    assert [(result['method'], result['seed']) for result in found] == [('snr', 0), ('dsu', 0), ('snr', 1), ('dsu', 1)]
    assert order.index('baseline-0') < order.index('snr-0')
    if jobs == 1:
        assert order == ['baseline-0', 'snr-0', 'dsu-0', 'baseline-1', 'snr-1', 'dsu-1']


def test_finished_runs_are_not_repeated(compare):
    published, _, _ = compare()
    assert compare() == (published[-1:], '', [])


def test_what_is_there_is_published_after_each_run_and_printed_at_the_end(compare, capsys):
    published, _, _ = compare()
    assert [len(found) for found in published] == [1, 2, 2], 'the baseline is not shown'
    assert capsys.readouterr().out == '\n2 results\n\n'


def test_a_start_whose_weights_were_discarded_is_trained_again(compare, tmp_path):
    compare(keep=False)
    assert (tmp_path / 'baseline-0/last.pth').exists(), 'another run starts from it'
    assert not (tmp_path / 'dsu-0/last.pth').exists()
    for name in ('trained.json', 'last.pth'):
        (tmp_path / 'baseline-0' / name).unlink()
    assert compare()[2] == ['baseline-0']


def test_what_starts_from_a_failed_run_is_not_run(compare, tmp_path, monkeypatch):
    (tmp_path / 'broken').touch()
    monkeypatch.setitem(NEEDS_SNR, 'dsu', Row('a.py', start='snr'))
    published, end, order = compare(shown=('dsu',))
    assert published == []
    assert end.endswith('a, dsu, seed 0: not run, since a, snr, seed 0 failed')
    assert order == ['baseline-0', 'snr-0']


@pytest.mark.slow
def test_a_config_of_ones_own_is_compared(tmp_path, monkeypatch):
    import compare as tool
    from test_classification_configs import write_fashion

    write_fashion(tmp_path)
    monkeypatch.chdir(tmp_path)
    text = f'_base_ = {str(Path(__file__).parents[2] / "configs" / FASHION)!r}\n'
    text += "test_dataloader = dict(dataset=dict(_delete_=True, type='FashionMNIST', root='.', split='test'))\n"
    Path('mine.py').write_text(text + "train_dataloader = dict(dataset=dict(root='.'))\n")
    line = ['mine.py', '--methods', 'baseline', 'snr:reduction=8', '--seeds', '0', '1', '--iters', '2']
    first = tool.main([*line, '--fine-tune', '1'])
    methods = ('baseline', 'snr:reduction=8')
    assert [(r['method'], r['seed']) for r in first] == [(m, s) for s in (0, 1) for m in methods]
    assert '| snr:reduction=8 | ' in Path('work_dirs/compare/mine/summary.md').read_text()
    monkeypatch.setattr(engine, 'start', lambda *_, **__: pytest.fail('trained again'))
    assert tool.main([*line, '--fine-tune', '1']) == first
