"""What timm's train.py has written under the launcher is evaluated, shown and exported by its other scripts."""

import json
import logging
import sys
from pathlib import Path

import pytest
import timm
import torch
from expected import LONELY, UNTAKEN
from PIL import Image
from since import TRAIN_SCRIPT

import timm_stylenorm
from timm_stylenorm import launch
from timm_stylenorm.methods import ROWS

pytestmark = [LONELY, UNTAKEN, pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning')]

SCRIPTS = {
    name: str(Path(__file__).with_name(f'stand_in_{name}.py'))
    for name in ('train', 'validate', 'inference', 'onnx_export')
}
STYLES = {name: ['--style', name] for name, row in ROWS.items() if row.recipe is None}
STYLES |= {'advbn': ['--recipe', 'advbn', 'steps=1'], 'debiased': ['--recipe', 'debiased', 'styliser=pixel']}
TRAINING_ONLY = {
    'snr': '.head.weight',
    'isw': '.mask',
    'advbn': '.aux_bn.',
    'debiased': '.aux_bn.',
    'dual_bn': '.aux_bn.',
}
CASES = [pytest.param(name, marks=() if name in ('snr', 'advbn') else pytest.mark.slow) for name in STYLES]


@pytest.fixture(scope='module')
def images(tmp_path_factory):
    root, generator = tmp_path_factory.mktemp('images'), torch.Generator().manual_seed(0)
    for split in ('train', 'validation', 'unlabelled'):
        for name in 'abc' if split != 'unlabelled' else '.':
            place = root / split / name
            place.mkdir(parents=True)
            for i in range(2):
                pixels = torch.randint(0, 256, (32, 32, 3), generator=generator, dtype=torch.uint8)
                Image.fromarray(pixels.numpy()).save(place / f'{i}.png')
    return root


@pytest.fixture
def run(monkeypatch):
    """`run(ours, name of the script, *theirs)`, in this process."""

    def call(ours, script, *theirs):
        monkeypatch.setattr(sys, 'argv', ['pytest'])
        monkeypatch.setattr(sys, 'path', list(sys.path))
        monkeypatch.setattr(logging.root, 'handlers', list(logging.root.handlers))  # the script adds one
        launch.main([*ours, SCRIPTS[script], *map(str, theirs)])

    return call


@TRAIN_SCRIPT
@pytest.mark.parametrize('method', CASES)
@pytest.mark.some(1)
def test_a_configuration_that_trains_evaluates(method, run, images, tmp_path):
    pytest.importorskip('onnxruntime')
    style, named = STYLES[method], ['--model', *timm_stylenorm.register_variants('test_resnet', [method])]
    run(style, 'train', '--model', 'test_resnet', '--data-dir', images, '--output', tmp_path)
    checkpoint = tmp_path / 'last.pth.tar'
    keys = torch.load(checkpoint, weights_only=False)['state_dict'].keys()  # the script's arguments are beside it
    assert any(TRAINING_ONLY.get(method, '') in key for key in keys)
    given = ['--checkpoint', checkpoint]
    doors = [(style, ['--model', 'test_resnet']), ([], named)]
    answers = []
    for ours, model in doors:
        with pytest.raises(SystemExit, match='3'):
            run(ours, 'validate', *model, *given, '--data-dir', images)
        run(
            ours,
            'inference',
            *model,
            *given,
            '--data-dir',
            images / 'unlabelled',
            '--results-file',
            tmp_path / 'a.json',
        )
        answers.append(json.loads((tmp_path / 'a.json').read_text()))
        for options in ([], ['--reparam']):
            run(ours, 'onnx_export', tmp_path / 'net.onnx', *model, *given, *options)
            assert (tmp_path / 'net.onnx').is_file()
    assert all(len(answer) == 2 for answer in answers)
    torch.testing.assert_close(*(torch.tensor(answer) for answer in (answers[0], answers[-1])))


def test_torchscript_is_refused_with_one_sentence(run, images, tmp_path):
    options = ['--data-dir', images / 'unlabelled', '--results-file', tmp_path / 'a.json', '--torchscript']
    torch.save(timm.create_model('test_resnet', num_classes=3).state_dict(), tmp_path / 'plain.pth')
    options += ['--model', 'test_resnet', '--checkpoint', tmp_path / 'plain.pth']
    with pytest.raises(NotImplementedError, match=r'snr.*torch\.jit\.script does not support style layers'):
        run(['--style', 'snr'], 'inference', *options)
