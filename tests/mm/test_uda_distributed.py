"""Two gloo processes run MaxSquare and FADA, and keep equal parameters."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip('mmseg')
pytestmark = [pytest.mark.slow, pytest.mark.skipif(torch.cuda.is_available(), reason='checks the way without a GPU')]

MOVING = {
    'maxsquare': ['backbone.conv1.weight', 'decode_head.conv2d_list.0.weight', 'auxiliary_head.conv2d_list.0.weight'],
    'fada': ['backbone.conv1.weight', 'decode_head.conv2d_list.0.weight', 'discriminator.cls2.weight'],
}


def test_two_processes_train_both_methods_and_agree(tmp_path):
    script = Path(__file__).parent / 'tiny_uda.py'
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', '2', str(script)]
    environment = {**os.environ, 'OMP_NUM_THREADS': '1'}
    done = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, timeout=600, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    for kind in MOVING:
        first, second = (torch.load(tmp_path / f'{kind}_{rank}.pth', weights_only=True) for rank in (0, 1))
        start = torch.load(tmp_path / f'{kind}_start.pth', weights_only=True)
        learning = {name for name in first if not name.endswith(('running_mean', 'running_var', 'num_batches_tracked'))}
        assert len(learning) > 60
        for name in learning:
            assert torch.equal(first[name], second[name]), name
        for name in MOVING[kind]:
            assert not torch.equal(first[name], start[name]), name
        assert not torch.equal(first['backbone.bn1.running_mean'], second['backbone.bn1.running_mean'])
        optimizer = torch.load(tmp_path / kind / 'iter_4.pth', weights_only=False)['optimizer']
        assert ('discriminator' in optimizer) == (kind == 'fada')
