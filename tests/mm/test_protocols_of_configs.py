"""Protocols of robustness for the classifier of a config: by `test.py --protocols`, and beside the Runner's test."""

from pathlib import Path

import pytest
import timm
import torch
from ends import status_of

pytest.importorskip('mmengine')
import evaluate as evaluate_tool
import test as test_tool
import train as train_tool
from test_classification_data import write_idx, write_images

from timm_stylenorm import add_style
from timm_stylenorm.errors import StyleNormWarning
from timm_stylenorm.evaluation.idx import find_idx, read_idx
from timm_stylenorm.evaluation.report import read_results
from timm_stylenorm.evaluation.style_shifts import STYLE_SHIFTS

CLASSIFIER = """
custom_imports = dict(imports=['timm_stylenorm.classification'])
custom_hooks = []
model = dict(type='StyleNormClassifier', model='test_resnet', num_classes=3, data_preprocessor=dict(mean=[.1, .2, .3]))
"""
SEGMENTOR = 'quickstart/deeplabv3plus_r18-small_1xb8-240_toy-streets.py'
FASHION = 'classification/resnet18_1xb64-500_fashion-mnist.py'
DEBIAN = Path('/usr/share/datasets/fashion-mnist')


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A config, a checkpoint of a network with a style, and images of three classes."""
    monkeypatch.chdir(tmp_path)
    for k, name in enumerate('abc'):
        write_images(Path('data/imagenet/val') / name, seed=k)
    Path('config.py').write_text(CLASSIFIER)
    net = add_style(timm.create_model('test_resnet', num_classes=3), 'snr')
    torch.save({f'net.{key}': value for key, value in net.state_dict().items()}, 'snr.pth')


def test_a_config_is_tested_by_protocols_as_evaluate_does_it(world, capsys):
    scores = test_tool.main(['config.py', 'snr.pth', '--style', 'snr', '--protocols', 'imagenet', 'fgsm'])
    (one, two) = read_results(Path('work_dirs/config_snr/protocols/results.json'))
    assert scores == {f'{r.protocol}/{metric}': value for r in (one, two) for metric, value in r.scores.items()}
    assert one.provenance['transform'].endswith('mean (0.1, 0.2, 0.3), deviation (0.5, 0.5, 0.5)')
    Path('styled.py').write_text(CLASSIFIER.replace('num_classes=3', "num_classes=3, style='snr'"))
    evaluate_tool.main(['styled.py=snr.pth', '--protocols', 'imagenet', 'fgsm', '--out', 'out', '--workers', '0'])
    theirs = read_results(Path('out/results.json'))
    assert [r.cells for r in theirs] == [one.cells, two.cells]
    assert [r.provenance['weight_hash'] for r in theirs] == [one.provenance['weight_hash']] * 2


@pytest.mark.parametrize(
    ('transform', 'told'),
    [
        ('dict(input_size=48, is_training=False)', 'CenterCrop(size=(48, 48))'),
        ("[dict(type='Resize', size=(40, 56))]", 'size=(40, 56)'),
        ("[dict(type='Resize', size=50), dict(type='CenterCrop', size=40)]", 'CenterCrop(size=(40, 40))'),
    ],
)
def test_images_are_scaled_as_the_config_tests_them(world, transform, told):
    data = f"dict(type='TimmDataset', root='data/imagenet', split='val', transform={transform})"
    Path('config.py').write_text(f'{CLASSIFIER}test_dataloader = dict(dataset={data})\n')
    test_tool.main(['config.py', 'snr.pth', '--style', 'snr', '--protocols', 'imagenet'])
    (result,) = read_results(Path('work_dirs/config_snr/protocols/results.json'))
    assert told in result.provenance['transform']


def test_a_transform_that_is_more_than_scaling_is_told(world):
    data = "dict(type='TimmDataset', root='data/imagenet', split='val', transform=[dict(type='Pad', padding=4)])"
    Path('config.py').write_text(f'{CLASSIFIER}test_dataloader = dict(dataset={data})\n')
    with pytest.warns(StyleNormWarning, match='Pad'):
        test_tool.main(['config.py', 'snr.pth', '--style', 'snr', '--protocols', 'imagenet'])


@pytest.mark.parametrize(
    ('words', 'told'),
    [
        (['config.py', 'snr.pth', '--protocols', 'imagenet'], 'does not fit this ResNet'),
        (['config.py', 'no.pth', '--style', 'snr', '--protocols', 'imagenet'], "there is no checkpoint 'no.pth'"),
        (['config.py', 'snr.pth', '--style', 'snr', '--protocols', 'imagenet-s'], "did you mean 'imagenet-"),
        (['config.py', 'snr.pth', '--protocols', 'imagenet-r', '--root', 'nowhere'], "no folder 'nowhere/imagenet-r'"),
    ],
)
def test_mistakes_are_told(world, words, told, capsys):
    assert status_of(test_tool.main, words) == 2
    assert told in capsys.readouterr().err


def test_a_segmentor_is_refused(world, capsys):
    pytest.importorskip('mmseg')
    assert status_of(test_tool.main, [SEGMENTOR, 'snr.pth', '--protocols', 'imagenet']) == 2
    assert 'protocols measure classifiers, and this is a EncoderDecoder' in capsys.readouterr().err


@pytest.fixture
def fashion_mnist(tmp_path):
    """The first images of Fashion-MNIST."""
    if not DEBIAN.is_dir():
        pytest.skip('the package dataset-fashion-mnist is not installed')
    for prefix, count in (('train', 320), ('t10k', 100)):
        for part in ('images-idx3-ubyte', 'labels-idx1-ubyte'):
            write_idx(tmp_path / f'idx/{prefix}-{part}', read_idx(find_idx(str(DEBIAN), f'{prefix}-{part}'))[:count])
    return tmp_path / 'idx'


@pytest.mark.slow
@pytest.mark.parametrize('style', [[], ['--style', 'ibn_a']], ids=['baseline', 'ibn_a'])
def test_fashion_mnist_has_the_numbers_of_the_runner(style, tmp_path, fashion_mnist):
    tests = [f'test_dataloader.dataset.domains.{name}.root={fashion_mnist}' for name in ('clean', *STYLE_SHIFTS)]
    options = ['--cfg-options', f'train_dataloader.dataset.root={fashion_mnist}', *tests, 'train_cfg.max_iters=5']
    common = [*style, '--work-dir', str(tmp_path / 'work'), *options, 'val_dataloader=None', 'val_cfg=None']
    train_tool.main([FASHION, *common, 'val_evaluator=None'])
    tested = [FASHION, str(tmp_path / 'work/iter_5.pth'), *common, 'val_evaluator=None']
    accuracy = {name: value for name, value in test_tool.main(tested).items() if name.count('/') == 2}
    test_tool.main(
        [*tested, '--protocols', 'fashion-mnist', '--root', str(fashion_mnist), '--out', str(tmp_path / 'out')]
    )
    (result,) = read_results(tmp_path / 'out/results.json')
    shares = {f'accuracy/{name}/top1': 100 * cell['top1'] / cell['total'] for name, cell in result.cells.items()}
    assert shares == accuracy
    assert len(set(accuracy.values())) > 2  # a network that answers one class alone would prove nothing
