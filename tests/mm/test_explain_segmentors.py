"""Segmentors of configs in the tools that explain: maps of a class, and the domains of a data config."""

import cli
import explain
import numpy as np
import pytest
import style_statistics
import torch
from figures import cams
from mistakes import UserError
from PIL import Image

pytest.importorskip('mmseg')

from mmengine.registry import DefaultScope
from mmseg.registry import MODELS

CONFIG = 'quickstart/deeplabv3plus_r18-small_1xb8-240_toy-streets.py'


@pytest.fixture(scope='module')
def world(tmp_path_factory):
    """Images of a street in two places, and a checkpoint as the Runner writes it."""
    root, rng = tmp_path_factory.mktemp('world'), np.random.default_rng(0)
    for name in ('seen', 'unseen'):
        (root / name).mkdir()
        for i in range(4):
            Image.fromarray(rng.integers(256, size=(64, 128, 3), dtype=np.uint8)).save(root / name / f'{i}.png')
    cfg = cli.load_config(cli.parser('').parse_args([CONFIG]))
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmseg'):
        torch.save({'state_dict': MODELS.build(cfg.model).state_dict(), 'meta': {}}, root / 'iter_1.pth')
    return root


def line(world, *words):
    return [f'{CONFIG}={world / "iter_1.pth"}', '--device', 'cpu', *words]


def test_the_map_of_a_segmentor_is_that_of_a_class_of_its_data_set(world, monkeypatch, tmp_path):
    found = []
    monkeypatch.setattr(cams, 'draw', lambda out, names, columns: found.extend(columns))
    images = ['--images', str(world / 'seen'), '--show', '1']
    explain.main(line(world, *images, '--target', 'car', '--out', str(tmp_path / 'x.png')))
    (panel,) = found[0]
    assert (panel.predicted, panel.target, panel.label) == ('car', None, None)
    assert panel.heat.shape == (64, 128)
    assert 0 <= panel.share <= 1
    with pytest.raises(UserError, match="unknown class 'cra'; did you mean 'car'"):
        explain.main(line(world, *images, '--target', 'cra', '--out', str(tmp_path / 'x.png')))
    with pytest.raises(UserError, match="no site 'stage5'; did you mean 'stage4'"):
        explain.main(line(world, *images, '--layer', 'stage5', '--out', str(tmp_path / 'x.png')))


def test_images_reach_a_segmentor_as_its_preprocessor_would_have_them(world):
    import networks

    args = style_statistics.parse_args(line(world, '--domains', 'x', '--image-size', '32'))
    network = networks.network(args.models[0], args)
    image = network.read(world / 'seen/0.png')
    assert image.shape == (3, 32, 64)
    bgr = image.flip(0)  # as mmcv loads files
    data = network.model.segmentor.data_preprocessor({'inputs': [bgr], 'data_samples': None})
    torch.testing.assert_close(network.inputs(image[None]), data['inputs'], atol=1e-4, rtol=1e-4)
    assert network.classes[13] == 'car'


@pytest.mark.slow
def test_the_domains_are_those_of_a_data_config(world, tmp_path):
    part = "dict(type='BaseSegDataset', data_root={!r}, img_suffix='.png', pipeline=[])"
    domains = ', '.join(f'{name}={part.format(str(world / name))}' for name in ('seen', 'unseen'))
    dataset = f"dict(type='MultiDomainDataset', domains=dict({domains}))"
    config = tmp_path / 'data.py'
    config.write_text(
        f"default_scope = 'mmseg'\nmodel = dict(type='X')\ntest_dataloader = dict(batch_size=1, dataset={dataset})\n"
    )
    words = ['--domains', str(config), '--layers', 'stage1', '--projection', 'pca', '--out', str(tmp_path / 'out')]
    style_statistics.main(line(world, *words))
    assert '"domains": {\n  "seen": 4,\n  "unseen": 4\n }' in (tmp_path / 'out/statistics.json').read_text()
