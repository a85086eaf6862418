"""The command that measures, its reports, two processes, and a kill."""

import csv
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import evaluate
import numpy as np
import pytest
import timm
import torch
from mistakes import UserError
from PIL import Image

from timm_stylenorm.evaluation.report import read_results
from timm_stylenorm.evaluation.scores import ALEXNET

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope='module')
def world(tmp_path_factory):
    """An image folder, a tree like ImageNet-C with few corruptions, and weights of two models."""
    root, rng = tmp_path_factory.mktemp('world'), np.random.default_rng(0)

    def write(folder, count, size):
        for name in ('n01440764', 'n01443537', 'n01484850'):
            (folder / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(256, size=(size, size, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / name / f'{i}.png')

    write(root / 'imagenet/val', 2, 240)
    for name in ('fog', 'snow', 'speckle_noise'):
        for severity in (1, 2):
            write(root / f'imagenet-c/{name}/{severity}', 2, 224)
    torch.manual_seed(0)
    for name in ('test_resnet', 'test_resnet_snr'):
        torch.save(timm.create_model(name, num_classes=3).state_dict(), root / f'{name}.pth')
    return root


def line(world, out, *words):
    models = [f'{name}={world / name}.pth' for name in ('test_resnet', 'test_resnet_snr')]
    return [*models, '--num-classes', '3', '--data', str(world), '--out', str(out), '--workers', '0', *words]


@pytest.fixture(scope='module')
def reported(world, tmp_path_factory):
    out = tmp_path_factory.mktemp('out')
    evaluate.main(line(world, out, '--protocols', 'imagenet', 'imagenet-c', '--metrics', 'top1'))
    return out


def test_several_models_by_several_protocols_make_the_files(reported, capsys):
    results = read_results(reported / 'results.json')
    assert [(r.provenance['model'], r.protocol) for r in results] == [
        (f'{name} ({name}.pth)', protocol)
        for name in ('test_resnet', 'test_resnet_snr')
        for protocol in ('imagenet', 'imagenet-c')
    ]
    assert all(r.provenance['weights'].startswith('checkpoint ') for r in results)
    assert len(results[1].cells) == 6
    rows = list(csv.DictReader((reported / 'results.csv').open()))
    assert list(rows[0])[:9] == [
        'model', 'top1', 'top1_err', 'top5', 'top5_err', 'param_count', 'img_size', 'crop_pct', 'interpolation',
    ]  # fmt: skip
    assert float(rows[0]['top1']) + float(rows[0]['top1_err']) == pytest.approx(100)
    text = (reported / 'results.md').read_text()
    assert '## ImageNet-C' in text
    missing = [name for name in ALEXNET if name not in ('fog', 'snow')]
    assert f'without {", ".join(sorted(f"{n}/{{1..5}}" for n in missing)[:1])}' in text
    for name in ('imagenet', 'imagenet-c'):
        assert Image.open(reported / f'{name}.png').width > 400


def test_the_page_needs_nothing_beside_it_and_has_the_counts(reported):
    page = (reported / 'report.html').read_text()
    assert not re.findall(r'(?:src|href)="(?!data:)[^"#]', page)
    assert 'title="total 6, top1 ' in page
    assert page.count('<table>') == 3


def test_a_repeated_call_measures_nothing_again(world, reported, monkeypatch):
    from timm_stylenorm.evaluation import running

    monkeypatch.setattr(running.Runner, 'count', None)
    before = (reported / 'results.json').read_text()
    evaluate.main(line(world, reported, '--protocols', 'imagenet', 'imagenet-c', '--metrics', 'top1'))
    assert (reported / 'results.json').read_text() == before


@pytest.mark.parametrize(
    ('words', 'told'),
    [
        (['--protocols', 'imagenet-c'], r'mCE of imagenet-c is over 15 corruptions .*missing: gaussian_noise'),
        (['--protocols', 'imagenet-x'], "unknown protocol 'imagenet-x'; did you mean 'imagenet-"),
        (['--protocols', 'imagenet-r', 'imagenet'], 'no folder .*imagenet-r'),
        (['--protocols', 'imagenet', '--batch-size', '0'], "a positive number or 'auto', got '0'"),
        (['--protocols', 'imagenet', '--limit', '0'], '--limit: expected at least 1, got 0'),
        ([], 'name at least one model'),
    ],
)
def test_mistakes_are_told_in_a_line(world, tmp_path, words, told, capsys):
    with pytest.raises(UserError, match=told):
        evaluate.main(line(world, tmp_path, *words))
    assert 'error: ' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('model', 'told'), [('resnet5', "did you mean 'resnet"), ('resnet18=no.pth', 'there is no checkpoint')]
)
def test_a_wrong_model_is_told(world, tmp_path, model, told):
    with pytest.raises(UserError, match=told):
        evaluate.main([model, '--protocols', 'imagenet', '--data', str(world), '--out', str(tmp_path)])


def test_the_list_has_every_protocol(capsys):
    evaluate.main(['--list'])
    text = capsys.readouterr().out
    from timm_stylenorm.evaluation import list_protocols

    assert all(re.search(rf'^{name} ', text, re.MULTILINE) for name in list_protocols())


def start(world, out, *words, before=()):
    script = [*before, str(ROOT / 'tools/evaluate.py'), *line(world, out, *words)]
    return subprocess.Popen([sys.executable, *script], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_two_processes_count_every_image_once(world, reported, tmp_path):
    process = start(
        world, tmp_path, '--protocols', 'imagenet', 'imagenet-c', '--metrics', 'top1', '--device', 'cpu',
        before=['-m', 'torch.distributed.run', '--nproc_per_node', '2'],
    )  # fmt: skip
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    ours, theirs = (read_results(folder / 'results.json') for folder in (tmp_path, reported))
    assert [r.cells for r in ours] == [r.cells for r in theirs]
    assert [r.scores for r in ours] == [r.scores for r in theirs]


@pytest.mark.slow
def test_a_killed_call_goes_on_with_the_same_numbers(world, reported, tmp_path):
    words = ['--protocols', 'imagenet', 'imagenet-c', '--metrics', 'top1']
    process = start(world, tmp_path, *words, '--batch-size', '1')
    deadline = time.time() + 240
    while time.time() < deadline and len(list(tmp_path.rglob('cells/*/*.json'))) < 3:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    kept = {path: json.loads(path.read_text()) for path in tmp_path.rglob('cells/*/*.json')}
    assert len(kept) >= 3
    process = start(world, tmp_path, *words)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert all(json.loads(path.read_text()) == content for path, content in kept.items())
    assert [r.cells for r in read_results(tmp_path / 'results.json')] == [
        r.cells for r in read_results(reported / 'results.json')
    ]


@pytest.mark.skipif(shutil.which('chromium') is None, reason='chromium is not installed')
def test_a_click_on_a_head_sorts_the_table_in_a_browser(reported, tmp_path):
    """The page as a browser has it after two clicks on the last column of the table of parts."""
    click = '<script>for (let i = 0; i < {}; i++) [...document.querySelectorAll("th")].at(-1).click()</script></html>'
    columns = []
    for clicks in (1, 2):
        page = tmp_path / f'{clicks}.html'
        page.write_text((reported / 'report.html').read_text().replace('</html>', click.format(clicks)))
        line = ['chromium', '--headless', '--no-sandbox', '--disable-gpu', '--dump-dom', f'file://{page}']
        shown = subprocess.run(line, capture_output=True, text=True, check=True, timeout=120).stdout
        table = shown.rpartition('<table>')[2].partition('</table>')[0]
        columns.append([float(re.findall(r'data-value="([^"]*)"', row)[-1]) for row in table.split('<tr>')[2:]])
    down, up = columns
    assert len(down) == 6
    assert down == sorted(down, reverse=True)
    assert up == sorted(up)
