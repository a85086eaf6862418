"""`torch.load` reads the checkpoints trained here, and so do mmseg's own tools; a resumed run gets its types back."""

import collections
import enum
import io
import itertools
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from since import OTHER_CLASSES

pytest.importorskip('mmengine')
from mmengine.config import ConfigDict
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.registry import HOOKS, PARAM_SCHEDULERS
from mmengine.runner.checkpoint import CheckpointLoader
from tiny_runs import train

from timm_stylenorm.runner import plain as plain_data
from timm_stylenorm.runner.checkpoint import load_local
from timm_stylenorm.runner.plain import TYPES, from_plain, to_plain

KINDS = pytest.mark.parametrize('by_epoch', [False, True], ids=['iterations', 'epochs'])
Pair = collections.namedtuple('Pair', 'a b')


class Colour(enum.IntEnum):
    """A number with a name."""

    RED = 3


@HOOKS.register_module()
class LateHook(Hook):
    """Adds to checkpoints after all other hooks, and to the message hub."""

    priority = 'LOWEST'

    def before_train(self, runner):
        if runner.iter == 0:
            runner.message_hub.update_info('means', {'array': np.arange(3.0), 'best': (np.float32(0.1), Path('a/b'))})

    def before_save_checkpoint(self, runner, checkpoint):
        checkpoint['late'] = [np.int64(3), np.arange(2), ConfigDict(a=(1, 2))]


def saved_and_read(content):
    buffer = io.BytesIO()
    torch.save(to_plain(content), buffer)
    buffer.seek(0)
    return torch.load(buffer)


@pytest.mark.parametrize(
    'value',
    [
        *(np.float32(0.1), np.int64(3), np.bool_(True), np.str_('a'), np.complex64(1j)),
        *(np.arange(6).astype(kind).reshape(2, 3) for kind in ('f2', '>f8', 'u2', 'u8', 'i1', '?')),
        *(np.arange(6)[::-2], np.array(2.5), np.zeros((0, 3)), np.array(['a', 'bc']), np.array([1, 'x'], object)),
        *({1, 2}, frozenset([1]), collections.deque([1, np.int8(2)], 5), Path('a/b'), (1, [np.float64(2)])),
    ],
    ids=str,
)
def test_arrays_numbers_and_containers_come_back_as_they_were(value):
    read = saved_and_read({'a': [value, {'b': value}]})
    for back in (from_plain(read)['a'][0], read['a'][1]['b']):
        assert type(back) is type(value)
        assert np.array_equal(back, value) if isinstance(value, np.ndarray) else back == value
        assert getattr(back, 'dtype', None) == getattr(value, 'dtype', None)
        assert getattr(back, 'maxlen', None) == getattr(value, 'maxlen', None)


def test_subclasses_become_their_basic_type():
    mapping = collections.defaultdict(list, {np.int64(1): Colour.RED, 'p': Pair(1, 2), 'c': ConfigDict(a=dict(b=1))})
    read = saved_and_read({'m': mapping, 'r': range(2), 's': type('Text', (str,), {})('t')})
    assert read == {'m': {1: 3, 'p': (1, 2), 'c': {'a': {'b': 1}}}, 'r': [0, 1], 's': 't'}


def test_a_log_keeps_its_numbers_and_length():
    read = saved_and_read({'log': HistoryBuffer([1.0, 2.5, 1 / 3], [1, 2, 1], max_length=7)})
    assert read['log']['log_history'].tolist() == [1.0, 2.5, 1 / 3]
    back = from_plain(read)['log']
    assert (back.max_length, back.statistics('mean'), back.data[1].dtype) == (7, (1 + 2.5 + 1 / 3) / 4, np.int64)


def test_what_is_plain_is_shared_and_nothing_is_changed_in_place():
    state, numbers = torch.nn.BatchNorm2d(2).state_dict(), [np.int64(1)]
    content = {'state_dict': state, 'numbers': numbers}
    plain = to_plain(content)
    assert plain['state_dict'] is state
    assert plain['state_dict']._metadata['']['version'] == 2
    assert type(numbers[0]) is np.int64
    assert content.keys() == {'state_dict', 'numbers'}


def test_what_cannot_be_plain_is_named_and_left(monkeypatch):
    shown = []
    monkeypatch.setattr(plain_data, 'print_log', lambda text, *_: shown.append(text))
    odd = object()
    endless = []
    endless.append(endless)
    plain = to_plain({'meta': {'odd': odd, 'date': np.datetime64('2020-01-01')}, 'endless': endless})
    assert plain['meta']['odd'] is odd
    (text,) = shown
    assert text.startswith("checkpoint['meta']['odd'] (builtins.object), checkpoint['meta']['date'] (numpy.datetime64)")


def test_notes_on_entries_that_are_gone_or_changed_do_not_hinder_reading():
    notes = [[['gone'], 'number', '<f8'], [['a', 0], 'ndarray', '<f8'], [['a'], 'os.system', None]]
    assert from_plain({'a': 'text', TYPES: notes}) == {'a': 'text'}


@KINDS
def test_torch_load_reads_what_a_run_saves_and_a_resumed_run_gets_its_types(tmp_path, by_epoch):
    ema = {'type': 'EMAHook', 'momentum': 0.1}
    run = {'by_epoch': by_epoch, 'hooks': [ema, {'type': 'LateHook'}], 'checkpoint': {'save_best': 'acc'}}
    train(tmp_path, steps=4, stop=3, **run)
    paths = sorted(tmp_path.glob('*.pth'))
    assert len(paths) == 2
    for path in paths:
        read = torch.load(path)
        assert {'meta', 'state_dict', 'message_hub', 'ema_state_dict', 'rng_states', 'late'} <= read.keys()
        assert read['message_hub']['log_scalars']['train/loss']['log_history'].dtype == torch.float64
        assert read['meta']['dataset_meta']['palette'].tolist() == [[1, 2, 3], [4, 5, 6]]
    hub = train(tmp_path, steps=4, resume=True, **run).message_hub
    assert isinstance(hub.get_scalar('train/loss'), HistoryBuffer)
    assert len(hub.get_scalar('train/loss').data[0]) == (8 if by_epoch else 4)
    means = hub.get_info('means')
    assert isinstance(means['array'], np.ndarray)
    assert isinstance(means['best'][0], np.float32)


def test_mmsegs_own_script_publishes_a_checkpoint(tmp_path, monkeypatch):
    mmseg = pytest.importorskip('mmseg')
    script = Path(mmseg.__file__).parent / '.mim/tools/misc/publish_model.py'
    if not script.is_file():
        pytest.skip('mmseg without its tools')
    train(tmp_path, steps=2)
    monkeypatch.setattr(sys, 'argv', ['publish_model.py', str(tmp_path / 'iter_2.pth'), str(tmp_path / 'out.pth')])
    moved = []
    monkeypatch.setattr('subprocess.Popen', lambda command: moved.append(command))
    runpy.run_path(str(script), run_name='__main__')
    assert 'optimizer' not in torch.load(tmp_path / 'out.pth')
    assert isinstance(load_local(str(moved[0][1]))['message_hub']['log_scalars']['train/loss'], HistoryBuffer)


@OTHER_CLASSES
def test_a_checkpoint_of_before_with_log_buffers_still_resumes(tmp_path):
    train(tmp_path, steps=4, stop=3)
    path = str(tmp_path / 'iter_2.pth')
    old = load_local(path)  # as mmengine has it in memory
    torch.save(old, path)
    assert isinstance(CheckpointLoader.load_checkpoint(path)['message_hub']['log_scalars']['train/lr'], HistoryBuffer)
    hub = train(tmp_path, steps=4, resume=True).message_hub
    assert len(hub.get_scalar('train/loss').data[0]) == 4


def test_a_segmentor_with_several_optimizers_saves_plain_data(tmp_path):
    pytest.importorskip('mmseg')
    import tiny_uda

    tiny_uda.train('fada', tmp_path, iters=2)
    read = torch.load(tmp_path / 'iter_2.pth')
    assert len(read['optimizer']) > 1
    assert read['rng_states']


SCHEDULERS = [
    {'type': 'OneCycleLR', 'eta_max': 0.1, 'total_steps': 20},
    {'type': 'CosineRestartLR', 'periods': [10, 10], 'restart_weights': [1, 0.5], 'eta_min': 0.0},
    {'type': 'MultiStepLR', 'milestones': [2, 5]},
    {'type': 'LinearLR', 'end': 5},
]


@pytest.mark.parametrize('scheduler', SCHEDULERS, ids=lambda scheduler: scheduler['type'])
def test_the_state_of_every_kind_of_scheduler_is_plain_and_resumes(tmp_path, scheduler):
    run = {'steps': 4, 'param_scheduler': [{'by_epoch': False, **scheduler}], 'val_dataloader': None}
    run = {**run, 'val_cfg': None, 'val_evaluator': None}
    straight = train(tmp_path / 'straight', **run)
    train(tmp_path / 'parts', stop=2, **run)
    torch.load(tmp_path / 'parts/iter_2.pth')
    resumed = train(tmp_path / 'parts', resume=True, **run)
    left, right = (run.optim_wrapper.param_groups[0]['lr'] for run in (straight, resumed))
    assert left == right
    for name, value in straight.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


def test_the_state_of_a_scheduler_that_watches_a_metric_is_plain():
    optimizer = torch.optim.SGD(torch.nn.Linear(2, 2).parameters(), 0.1)
    scheduler = PARAM_SCHEDULERS.build({'type': 'ReduceOnPlateauLR', 'optimizer': optimizer, 'monitor': 'loss'})
    saved_and_read({'param_schedulers': [scheduler.state_dict()]})


@pytest.mark.parametrize('optimizer', ['Adam', 'Adagrad', 'ASGD', 'Rprop', 'LBFGS'])
def test_the_state_of_optimizers_is_plain(optimizer):
    net = torch.nn.Linear(2, 2)
    made = getattr(torch.optim, optimizer)(net.parameters())

    def closure():
        made.zero_grad()
        loss = net(torch.ones(3, 2)).square().sum()
        loss.backward()
        return loss

    for _ in itertools.repeat(None, 2):
        made.step(closure)
    saved_and_read({'optimizer': made.state_dict()})


def test_the_message_hub_of_another_process_reads_our_checkpoints_without_the_plugin(tmp_path):
    train(tmp_path, steps=2)
    hub = MessageHub('other')
    hub.load_state_dict(torch.load(tmp_path / 'iter_2.pth')['message_hub'])  # it passes over logs, with a warning
    assert hub.get_info('keep_ckpt_ids') == [2]
