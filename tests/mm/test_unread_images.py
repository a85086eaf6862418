"""Damaged images of a classifier: a test goes on and names them, a training ends with their name."""

import json
from pathlib import Path

import pytest
import timm
import torch
from ends import status_of

pytest.importorskip('mmengine')
import test as test_tool
import train as train_tool
from mmengine.registry import DATASETS
from test_classification_data import write_images

from timm_stylenorm.classification import MultiDomainDataset

CONFIG = """
custom_imports = dict(imports=['timm_stylenorm.classification'])
custom_hooks = [dict(type='RNGStateHook')]
common = dict(type='TimmDataset', split='val', transform=dict(input_size=32, is_training=False))
loader = dict(batch_size=3, num_workers=0, collate_fn=dict(type='default_collate'))
train_dataloader = dict(sampler=dict(type='InfiniteSampler'), dataset=dict(root='b', **common), **loader)
domains = dict(a=dict(root='a', **common), b=dict(root='b', **common))
both = dict(type='MultiDomainDataset', domains=domains)
test_dataloader = dict(sampler=dict(type='DefaultSampler', shuffle=False), dataset=both, **loader)
test_evaluator, test_cfg = dict(type='TopK', topk=(1,)), dict()
train_cfg = dict(by_epoch=False, max_iters=4)
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1))
model = dict(type='StyleNormClassifier', model='test_resnet', num_classes=2)
"""


@pytest.fixture
def bad(tmp_path, monkeypatch):
    """The path of a damaged image, one of the dogs of the domain `b`; a config; a checkpoint that says `cat` always."""
    for domain in 'ab':
        for name in ('cat', 'dog'):
            write_images(tmp_path / domain / 'val' / name)
    (tmp_path / 'config.py').write_text(CONFIG)
    net = timm.create_model('test_resnet', num_classes=2)
    net.fc.bias.data = torch.tensor([99.0, 0.0])
    torch.save({f'net.{key}': value for key, value in net.state_dict().items()}, tmp_path / 'cat.pth')
    monkeypatch.chdir(tmp_path)
    path = Path('b/val/dog/0.png')
    path.write_bytes(path.read_bytes()[:60])
    return path


def run_test(*options):
    status = status_of(test_tool.main, ['config.py', 'cat.pth', '--work-dir', 'out', '--cfg-options', *options])
    (file,) = Path('out').glob('*/*.json')
    return status, json.loads(file.read_text())


@pytest.mark.parametrize('workers', [0, pytest.param(1, marks=pytest.mark.slow)])
def test_one_damaged_image_costs_no_other_result_of_a_test(bad, workers, capsys):
    status, scores = run_test(f'test_dataloader.num_workers={workers}')
    assert status == 2
    said = capsys.readouterr().err
    assert 'error: 1 images were not tested' in said
    assert str(bad) in said
    assert scores['accuracy/a/top1'] == 50
    assert scores['accuracy/b/top1'] == pytest.approx(100 * 2 / 3)


def test_so_it_is_without_domains(bad):
    with Path('config.py').open('a') as config:
        config.write("test_dataloader['dataset'] = domains['b']\n")
    status, scores = run_test('log_level=ERROR')
    assert status == 2
    assert scores['accuracy/top1'] == pytest.approx(100 * 2 / 3)


def test_a_damaged_image_of_a_training_is_an_error_with_its_name(bad, capsys):
    assert status_of(train_tool.main, ['config.py', '--work-dir', 'out']) == 2
    assert f"cannot read image '{bad}'" in capsys.readouterr().err


def test_a_stand_in_has_the_domain_of_what_it_stands_for(bad):
    part = dict(type='TimmDataset', split='val', transform=dict(input_size=32, is_training=False))
    for path in Path('b').rglob('*.png'):
        path.write_bytes(b'')
    dataset = MultiDomainDataset({name: DATASETS.build(dict(part, root=name)) for name in 'ab'})
    with pytest.raises(OSError, match='cannot read image'):
        dataset[5]
    dataset.keep_going = True
    assert [item['domain'] for item in dataset] == [*'aaaabbbb']
    assert [item['unread'][0] for item in dataset][:5] == [
        '',
        '',
        '',
        '',
        str(bad.with_name('0.png')).replace('dog', 'cat'),
    ]
