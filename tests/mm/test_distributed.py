"""Two gloo processes on one machine: they train, agree, and equal one process where the method allows it."""

import atexit
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

pytest.importorskip('mmengine')
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, MODELS
from mmengine.runner import Runner

from timm_stylenorm import add_style, style_losses
from timm_stylenorm.runner import distributed, model

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(torch.cuda.is_available(), reason='checks the way without a GPU'),
    pytest.mark.filterwarnings('ignore:.*nobody has said'),
]
STYLES = {
    'snr': {'type': 'snr', 'reduction': 2},
    'causality': {'type': 'snr', 'reduction': 2, 'num_classes': 3},
    'padain': {'type': 'padain', 'p': 0.5},
}


@DATASETS.register_module()
class EightImages(torch.utils.data.Dataset):
    """Fixed random images."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        image = torch.randn(3, 9, 9, generator=torch.Generator().manual_seed(index))
        return {'image': image, 'label': index % 3}


@MODELS.register_module()
class PlainNet(model.StyleLossMixin, BaseModel):
    """Convolutions without batch statistics, styled after the first one."""

    def __init__(self, style):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Tanh(), nn.Conv2d(8, 3, 3))
        add_style(self.net, STYLES[style], sites='0')

    def forward(self, image, label, mode):
        target = torch.tensor(label)
        losses = {'loss': nn.functional.cross_entropy(self.net(torch.stack(image)).mean((2, 3)), target)}
        return losses | {f'style.{name}': value for name, value in style_losses(self, target).items()}


def train(out, style, epochs, launcher, resume=False):
    processes = int(os.environ.get('WORLD_SIZE', 1)) if launcher != 'none' else 1
    cfg = Config(
        {
            'model': {'type': 'PlainNet', 'style': style},
            'work_dir': str(out),
            'train_dataloader': {
                'batch_size': 8 // processes,
                'num_workers': 0,
                'sampler': {'type': 'DefaultSampler', 'shuffle': False},
                'dataset': {'type': 'EightImages'},
            },
            'train_cfg': {'by_epoch': True, 'max_epochs': epochs},
            'optim_wrapper': {'type': 'OptimWrapper', 'optimizer': {'type': 'SGD', 'lr': 0.1}},
            'custom_hooks': [{'type': 'RNGStateHook'}],
            'randomness': {'seed': 0, 'diff_rank_seed': True} if style == 'padain' else {'seed': 0},
            'launcher': launcher,
            'resume': resume,
            'default_scope': 'mmengine',
            'log_level': 'WARNING',
        }
    )
    distributed.prepare_cpu_distributed(cfg, launcher)
    model = Runner.from_cfg(cfg).train()
    model = getattr(model, 'module', model)
    torch.save(model.state_dict(), Path(out) / f'rank{os.environ.get("RANK", 0)}.pth')
    return model.state_dict()


def train_two(out, style, epochs=1, resume=False):
    """State dicts of both ranks."""
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', '2', __file__]
    environment = {**os.environ, 'OMP_NUM_THREADS': '1'}
    arguments = [str(out), style, str(epochs), str(int(resume))]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    for rank in (0, 1):
        assert 'gloo' not in (Path(out) / f'threads{rank}.txt').read_text(), 'a thread that outlives the interpreter'
    return [torch.load(Path(out) / f'rank{rank}.pth', weights_only=True) for rank in (0, 1)]


def assert_equal(a, b):
    for name, value in a.items():
        assert torch.equal(value, b[name]), name


def test_snr_step_of_two_processes_equals_one_with_the_whole_batch(tmp_path):
    first, second = train_two(tmp_path / 'two', 'snr')
    whole = train(tmp_path / 'one', 'snr', 1, 'none')
    assert_equal(first, second)
    for name, value in whole.items():
        torch.testing.assert_close(first[name], value, rtol=1e-5, atol=1e-6, msg=name)


def test_causality_loss_leaves_no_parameter_unused(tmp_path):
    first, second = train_two(tmp_path, 'causality', epochs=3)
    assert_equal(first, second)


def test_padain_ranks_draw_differently_stay_together_and_resume_exactly(tmp_path):
    first, second = train_two(tmp_path / 'whole', 'padain', epochs=6)
    assert_equal(first, second)
    train_two(tmp_path / 'parts', 'padain', epochs=3)
    saved = torch.load(tmp_path / 'parts/epoch_3.pth', weights_only=False)['rng_states']
    assert len(saved) == 2
    assert not torch.equal(saved[0]['torch'], saved[1]['torch'])
    resumed, _ = train_two(tmp_path / 'parts', 'padain', epochs=6, resume=True)
    assert_equal(first, resumed)


def test_both_ranks_resume_from_the_newest_complete_checkpoint(tmp_path):
    first, second = train_two(tmp_path / 'whole', 'padain', epochs=4)
    train_two(tmp_path / 'parts', 'padain', epochs=3)
    damaged = tmp_path / 'parts/epoch_3.pth'
    damaged.write_bytes(damaged.read_bytes()[:2000])
    resumed = train_two(tmp_path / 'parts', 'padain', epochs=4, resume=True)
    for left, right in zip((first, second), resumed, strict=True):
        assert_equal(left, right)


def threads():
    """Names of this process's threads."""
    return [file.read_text().strip() for file in Path('/proc/self/task').glob('*/comm')]


if __name__ == '__main__':
    where, which, number, again = sys.argv[1:]
    left = Path(where) / f'threads{os.environ["RANK"]}.txt'
    atexit.register(lambda: left.write_text('\n'.join(threads())))  # registered first, so it runs last
    train(where, which, int(number), 'pytorch', bool(int(again)))
