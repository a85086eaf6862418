"""The style of domains as figures and numbers."""

import json

import numpy as np
import pytest
import style_statistics
import timm
import torch
from mistakes import UserError
from PIL import Image

FILES = {'style.png', 'norms.png', 'probe.png', 'statistics.json'}


@pytest.fixture(scope='module')
def world(tmp_path_factory):
    """Two domains, bright and dark, and weights of two models."""
    root, rng = tmp_path_factory.mktemp('world'), np.random.default_rng(0)
    for name, most in (('bright', 256), ('dark', 60)):
        (root / name).mkdir()
        for i in range(6):
            pixels = rng.integers(most, size=(64, 64, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f'{i}.png')
    torch.manual_seed(0)
    for name in ('test_resnet', 'test_resnet_selfnorm'):
        torch.save(timm.create_model(name, num_classes=3).state_dict(), root / f'{name}.pth')
    return root


def line(world, out, *words, models=('test_resnet', 'test_resnet_selfnorm')):
    domains = [] if '--domains' in words else ['--domains', f'light={world / "bright"}', str(world / 'dark')]
    weights = [f'{name}={world / name}.pth' for name in models]
    return [*weights, *domains, '--device', 'cpu', '--projection', 'pca', '--out', str(out), *words]


@pytest.mark.slow
def test_figures_and_accuracies_are_written(world, tmp_path):
    style_statistics.main(
        line(world, tmp_path / 'out', '--sites', 'layer1.0', 'stage4', '--layers', 'stage1', 'stage2')
    )
    assert {file.name for file in (tmp_path / 'out').iterdir()} == FILES
    facts = json.loads((tmp_path / 'out/statistics.json').read_text())
    assert facts['domains'] == {'light': 6, 'dark': 6}
    plain, styled = (model['probe'] for model in facts['models'])
    assert list(plain) == ['layer1.0', 'stage4', 'stage2']  # the only block of stage 1 is its end
    assert all(list(sides) == ['before'] for sides in plain.values())
    assert list(styled['layer1.0']) == ['before', 'after']
    assert plain['layer1.0']['before'] == 1
    with Image.open(tmp_path / 'out/style.png') as picture:
        assert picture.height > 3 * 200  # of the plain model one row, of the other two


@pytest.mark.slow
def test_the_probe_goes_through_all_batch_norms_by_default_and_over_batches(world, tmp_path):
    style_statistics.main(line(world, tmp_path, '--pool', '2', models=['test_resnet']))
    facts = json.loads((tmp_path / 'statistics.json').read_text())
    net = timm.create_model('test_resnet')
    norms = [name for name, module in net.named_modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert set(norms) <= {*facts['models'][0]['probe']}
    assert facts['pool'] == 2


def test_the_projections_of_the_command_line_keep_every_image(world):
    from figures.style import PROJECTIONS

    for name, (_, project) in PROJECTIONS.items():
        assert style_statistics.parse_args(line(world, 'out', '--projection', name)).projection == name
        assert project(np.random.default_rng(0).normal(size=(12, 5)), 0).shape == (12, 2)


@pytest.mark.parametrize(
    ('words', 'told'),
    [
        (['--domains', '{}/dark', '{}/dark'], "two are called 'dark'"),
        (['--domains', '{}/dark'], 'expected two or more, got dark'),
        (['--domains', '{}/dark', '{}/brigt'], "did you mean '.*bright'"),
        (['--sites', 'stage9'], "did you mean 'stage4'"),
        (['--layers', 'stem.nrom'], "no site 'stem.nrom'; did you mean 'stem.norm'"),
        (['--pool', '4'], "two batches of 4 of each domain, and 'light' has 6 images"),
        (['--limit', '1'], "two batches of 1 of each domain, and 'light' has 1 images"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(world, tmp_path, words, told):
    words = [word.format(world) for word in words]
    with pytest.raises(UserError, match=told):
        style_statistics.main(line(world, tmp_path / 'out', *words))
    assert not (tmp_path / 'out').exists()
