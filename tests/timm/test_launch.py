"""timm's scripts, of which stand-ins make the same calls, run with styles and recipes, and otherwise as ever."""

import ast
import logging
import re
import runpy
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import timm.task
import torch
from expected import LONELY, UNTAKEN
from PIL import Image
from since import OTHER_CLASSES, older, since

import timm_stylenorm
from timm_stylenorm import launch
from timm_stylenorm.layers import AdvBN, DualBatchNorm2d
from timm_stylenorm.recipes import DebiasedRecipe
from timm_stylenorm.tasks import StyleTask

TRAIN, VALIDATE = (str(Path(__file__).with_name(f'stand_in_{name}.py')) for name in ('train', 'validate'))
CAUSALITY = ['--style', 'snr', '--style-kwargs', 'num_classes=3', 'reduction=4', "sites=('stage1', 'stage3')"]
ADVBN = ['--recipe', 'advbn', 'steps=2']
PIXEL = ['--recipe', 'debiased', '--recipe-kwargs', 'styliser=pixel']


@pytest.fixture(scope='session')
def folder(tmp_path_factory):
    """An image folder of three classes."""
    root, generator = tmp_path_factory.mktemp('images'), torch.Generator().manual_seed(0)
    for split, count in (('train', 4), ('validation', 2)):
        for name in 'abc':
            place = root / split / name
            place.mkdir(parents=True)
            for i in range(count):
                pixels = torch.randint(0, 256, (32, 32, 3), generator=generator, dtype=torch.uint8)
                Image.fromarray(pixels.numpy()).save(place / f'{i}.png')
    return root


@pytest.fixture
def run(folder, tmp_path, monkeypatch, caplog):
    """`run(ours, script, *theirs)` in this process; the losses that the script has logged, step by step."""
    if older('timm', '1.0.31'):
        pytest.skip('timm before 1.0.31 has another train.py than the one that is stood in for')

    def call(ours, script, *theirs, out='out'):
        monkeypatch.setattr(sys, 'argv', ['pytest'])
        monkeypatch.setattr(sys, 'path', list(sys.path))
        monkeypatch.setattr(logging.root, 'handlers', list(logging.root.handlers))  # the script adds one
        caplog.clear()
        theirs = ['--model', 'test_resnet', '--data-dir', str(folder), *theirs]
        theirs += ['--output', str(tmp_path / out)] if script == TRAIN else []
        with caplog.at_level('INFO'):
            launch.main([*ours, script, *theirs])
        return [ast.literal_eval(m.partition(' ')[2]) for m in caplog.messages if m.startswith('train {')]

    call.out = tmp_path / 'out'
    return call


def weights(path, key='state_dict'):
    return torch.load(path, weights_only=False)[key]  # the script's arguments are beside it


def test_without_options_a_script_does_what_it_does_alone(run, folder, tmp_path, monkeypatch):
    losses = run([], TRAIN)
    assert [set(step) for step in losses] == [{'loss'}] * 3
    theirs = {'--model': 'test_resnet', '--data-dir': folder, '--output': tmp_path / 'alone'}
    monkeypatch.setattr(sys, 'argv', [TRAIN, *(str(word) for pair in theirs.items() for word in pair)])
    runpy.run_path(TRAIN, run_name='__main__')
    launched, alone = (weights(place / 'rank0.pth') for place in (run.out, tmp_path / 'alone'))
    assert launched.keys() == alone.keys()
    assert all(torch.equal(launched[key], alone[key]) for key in alone)


@pytest.mark.parametrize(
    ('ours', 'names'),
    [
        (['--style', 'padain', 'p=1'], {'loss'}),
        (['--style', 'ibn_a', 'ratio=0.25', '--style', 'mixstyle'], {'loss'}),
        (CAUSALITY, {'loss', 'loss_cls', *(f'style.snr.{s}' for s in ('stage1', 'stage3', 'stage3.ce'))}),
        (ADVBN, {'loss', 'loss_cls', 'adv.loss_cls'}),
        (['--style', 'advbn', '--style-kwargs', 'steps=1'], {'loss', 'loss_cls', 'adv.loss_cls'}),
        (PIXEL, {'loss', 'loss_cls', 'stylised.loss_cls'}),
    ],
)
def test_styles_and_recipes_reach_model_and_task(ours, names, run, caplog):
    losses = run(ours, TRAIN)
    assert {name for step in losses for name in step} == names
    layers = 'dual_bn' if ours is PIXEL else ours[1]
    assert len(re.findall(rf'style: .*{layers}', caplog.text)) == 1
    if len(names) > 1:
        assert losses[0]['loss'] == pytest.approx(sum(v for k, v in losses[0].items() if k != 'loss'), abs=1e-3)


def test_gates_have_a_group_of_their_own_and_stay_between_0_and_1(run, recwarn):
    run(['--style', 'bin'], TRAIN, '--lr', '30', '--epochs', '2')
    gates = [value for key, value in weights(run.out / 'rank0.pth').items() if key.endswith('gate')]
    assert gates
    assert all(gate.min() >= 0 and gate.max() <= 1 for gate in gates)
    assert any(gate.min() < 1 for gate in gates), 'they learn'
    assert not [w for w in recwarn if str(w.message).startswith('bin: ')]


def test_what_the_launcher_cannot_provide_is_told(run):
    with pytest.warns(UserWarning, match=r'isw: no pairs of channels are selected.*select_pairs'):
        run(['--style', 'isw'], TRAIN)


def test_all_options_of_the_script_together(run, caplog):
    losses = run(ADVBN, TRAIN, '--model-ema', '--grad-accum-steps', '3', '--mixup', '0.5', '--amp', '--epochs', '2')
    assert len(losses) == 6
    assert 'ema_loss' in caplog.text
    states = [weights(run.out / 'last.pth.tar', key) for key in ('state_dict', 'state_dict_ema')]
    assert states[0].keys() == states[1].keys()
    assert not torch.equal(*(state['fc.weight'] for state in states))


@OTHER_CLASSES
def test_a_run_goes_on_where_it_ended(run):
    run(ADVBN, TRAIN, '--model-ema', '--epochs', '2', out='whole')
    run(ADVBN, TRAIN, '--model-ema')
    first = weights(run.out / 'last.pth.tar')
    losses = run(ADVBN, TRAIN, '--model-ema', '--epochs', '2', '--resume', str(run.out / 'last.pth.tar'))
    assert len(losses) == 3
    second = weights(run.out / 'last.pth.tar')
    assert first.keys() == second.keys() == weights(run.out.with_name('whole') / 'last.pth.tar').keys()
    assert (
        int(second['layer2.0.bn1.bn.num_batches_tracked']) == 2 * int(first['layer2.0.bn1.bn.num_batches_tracked']) == 6
    )


@since('timm', '1.0.31', 'its validate.py measures by itself')
def test_validate_reads_what_train_has_written(run, caplog, capsys):
    run(ADVBN, TRAIN, '--model-ema')
    shown = ast.literal_eval(re.search(r'eval (\{.*\})', caplog.text).group(1))
    for option, key in (((), 'loss'), (('--use-ema',), 'ema_loss')):
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            run(ADVBN, VALIDATE, '--checkpoint', str(run.out / 'last.pth.tar'), *option)
        assert end.value.code == 3  # the script's own
        assert ast.literal_eval(capsys.readouterr().out)['loss'] == pytest.approx(shown[key], abs=1e-5)


def test_training_starts_from_plain_weights_and_from_weights_of_its_style(run, tmp_path):
    plain = timm.create_model('test_resnet', num_classes=3)
    torch.save(plain.state_dict(), tmp_path / 'plain.pth')
    run(CAUSALITY, TRAIN, '--initial-checkpoint', str(tmp_path / 'plain.pth'), '--epochs', '0')
    started = weights(run.out / 'rank0.pth')
    assert all(torch.equal(started[key], value) for key, value in plain.state_dict().items())
    torch.save(started, tmp_path / 'styled.pth')
    run(CAUSALITY, TRAIN, '--initial-checkpoint', str(tmp_path / 'styled.pth'), '--epochs', '0')
    again = weights(run.out / 'rank0.pth')
    assert all(torch.equal(again[key], value) for key, value in started.items())
    torch.save(timm.create_model('resnet18', num_classes=3).state_dict(), tmp_path / 'other.pth')
    with pytest.raises((ValueError, RuntimeError), match=r'does not fit|size mismatch'):
        run(CAUSALITY, TRAIN, '--initial-checkpoint', str(tmp_path / 'other.pth'))


def test_within_timm_is_ours_and_after_it_timms():
    create, task, teachers = timm.create_model, timm.task.ClassificationTask, timm.task.distillation.create_model
    with launch.styled_timm(dict(type='advbn', steps=2)):
        for source in ('timm', 'timm.models', 'timm.models._factory'):
            model = getattr(sys.modules[source], 'create_model')('test_resnet')  # noqa: B009
            assert any(isinstance(m, AdvBN) for m in model.modules())
            assert any(isinstance(m, DualBatchNorm2d) for m in model.modules())
        assert timm.task.distillation.create_model is teachers  # of models that only give advice
        assert issubclass(timm.task.ClassificationTask, (StyleTask, task))
        assert timm.task.ClassificationTask is timm.task.classification.ClassificationTask
        assert issubclass(timm.task.LogitDistillationTask, StyleTask)
    assert (timm.create_model, timm.task.ClassificationTask) == (create, task)


@LONELY
@UNTAKEN
@pytest.mark.parametrize(
    ('style', 'message'),
    [
        (dict(type='advbn'), "would run the recipe 'advbn'"),
        (dict(type='snr', reduction=4, num_classes=3), 'would add snr.stage1, snr.stage2, snr.stage3'),
    ],
)
def test_a_script_that_trains_without_tasks_is_told_what_it_misses(style, message):
    images = torch.randn(2, 3, 32, 32)
    with launch.styled_timm(style):
        model = timm.create_model('test_resnet', num_classes=3)
        model.eval()(images)
        with pytest.raises(RuntimeError, match=message):
            model.train()(images)
        timm.task.ClassificationTask(model, torch.nn.CrossEntropyLoss())
        model.train()(images)
    model = timm_stylenorm.add_style(timm.create_model('test_resnet'), 'padain')
    model.train()(images)


@pytest.mark.parametrize(
    ('argv', 'message'),
    [
        (['--style', 'padian', TRAIN], "unknown style method 'padian'; did you mean 'padain'"),
        (['--style', 'padain', '--style-kwargs', 'q=1', TRAIN], "unknown argument of style method 'padain': 'q'"),
        (['--recipe', 'advbm', TRAIN], "unknown recipe 'advbm'; did you mean 'advbn'"),
        (['--recipe', 'advbn', '--recipe-kwargs', 'stpes=1', TRAIN], "'stpes'; did you mean 'steps'"),
        (
            ['--recipe', 'debiased', '--recipe-kwargs', 'styliser={"type":"adain","encoder":"no.pth"}', TRAIN],
            'no encoder',
        ),
        (['--style-kwargs', 'p=1', TRAIN], '--style-kwargs without --style'),
        (['--style', 'ibn_a', '--style', 'padain', '--style-kwargs', 'p=1', TRAIN], 'with more than one --style'),
        (['--stile', 'padain', TRAIN], 'unrecognized arguments: --stile'),
        (['--style', 'padain', 'no/train.py'], "there is no script 'no/train.py'"),
        (['--style', 'padain'], 'name the script to run'),
    ],
)
def test_mistakes_end_it_before_the_script_starts(argv, message, capsys):
    with pytest.raises(SystemExit) as end:
        launch.main(argv)
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def test_the_script_sees_its_own_arguments_folder_and_name(tmp_path, monkeypatch, capsys, caplog):
    (tmp_path / 'beside.py').write_text('WORD = "found"')
    (tmp_path / 'timm').mkdir()
    script = tmp_path / 'script.py'
    script.write_text('import sys, beside\nprint(sys.argv[1:], beside.WORD, __name__, sys.argv[0] == __file__)')
    monkeypatch.setattr(sys, 'argv', ['pytest'])
    monkeypatch.setattr(sys, 'path', list(sys.path))
    launch.main(['--style', 'padain', '--style-kwargs', 'p=0.5', '--', str(script), '--style', 'x', 'k=v'])
    assert capsys.readouterr().out.strip() == "['--style', 'x', 'k=v'] found __main__ True"
    assert f'timm {timm.__version__}' in caplog.text  # runs, and not the one in the script's folder


def test_help_shows_how_to_call_it(capsys):
    with pytest.raises(SystemExit) as end:
        launch.main(['--help'])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert 'torchrun' in shown
    assert '--recipe-kwargs KEY=VALUE' in shown


@pytest.mark.slow
@pytest.mark.parametrize('ours', [ADVBN, PIXEL, CAUSALITY], ids=['advbn', 'debiased', 'snr'])
def test_two_processes_keep_equal_weights(ours, folder, tmp_path):
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = str(probe.getsockname()[1])
    command = [sys.executable, '-m', 'torch.distributed.run', '--nproc_per_node', '2', '--master_port', port, '-m']
    command += ['timm_stylenorm.launch', *ours, TRAIN, '--model', 'test_resnet', '--data-dir', str(folder)]
    command += ['--output', str(tmp_path), '--model-ema', '--batch-size', '2', '--epochs', '20']
    subprocess.run([*command, '--grad-accum-steps', '3'], check=True, capture_output=True, timeout=300)
    ranks = [weights(tmp_path / f'rank{i}.pth') for i in range(2)]
    assert all(torch.equal(ranks[0][key], value) for key, value in ranks[1].items())


@pytest.mark.parametrize(
    ('ours', 'theirs', 'images'),
    [
        ([], ['--mean', '0.1', '0.2', '0.3', '--lr', '1', '--std', '.5'], {'mean': (0.1, 0.2, 0.3), 'std': (0.5,)}),
        (['mean=(0.9,)'], ['--mean', '0.1'], {'mean': (0.9,)}),
        ([], ['--lr', '1'], {}),
    ],
)
def test_a_recipe_has_the_mean_and_deviation_of_the_scripts_images(ours, theirs, images):
    line = ['--recipe', 'debiased', 'styliser=pixel', *ours, TRAIN, *theirs]
    assert launch._parse(line)[2] == images


@OTHER_CLASSES
@pytest.mark.parametrize('flags', [[], ['--sched-on-updates']], ids=['epochs', 'updates'])
@pytest.mark.some(1)
def test_multi_grid_follows_the_epochs_of_a_script_also_when_it_resumes(flags, run, monkeypatch, tmp_path):
    """Twelve images in batches of four; two epochs with small images, two with larger ones."""
    seen, stylise = [], DebiasedRecipe.stylise

    def watched(self, images, index, size):
        seen.append(size[0])
        return stylise(self, images, index, size)

    monkeypatch.setattr(DebiasedRecipe, 'stylise', watched)
    ours = ['--recipe', 'debiased', 'styliser=pixel', 'multi_grid=(4,)', 'min_size=8']
    run(ours, TRAIN, '--epochs', '4', *flags)
    assert seen == 2 * [16, 23, 16] + 2 * [23, 32, 23]
    run(ours, TRAIN, '--epochs', '2', *flags, out='half')
    seen.clear()
    run(ours, TRAIN, '--epochs', '4', *flags, '--resume', str(tmp_path / 'half/last.pth.tar'), out='rest')
    assert seen == 2 * [23, 32, 23]
