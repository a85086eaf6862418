"""Every method under timm's models in two gloo processes with DistributedDataParallel."""

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

import timm_stylenorm
from timm_stylenorm.methods import METHODS
from timm_stylenorm.whitening import select_pairs

pytestmark = [pytest.mark.slow, pytest.mark.skipif(torch.cuda.is_available(), reason='checks the way without a GPU')]


def same_everywhere(tensors):
    """Whether all processes hold the same numbers."""
    flat = torch.cat([t.detach().flatten().float() for t in tensors])
    gathered = [torch.empty_like(flat) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, flat)
    return bool(flat.isfinite().all()) and all(torch.equal(flat, other) for other in gathered)


def trained(method):
    """A model after three steps, each process with images and draws of its own."""
    torch.manual_seed(0)
    model = timm_stylenorm.add_style(timm.create_model('resnet18', num_classes=4), method)
    wrapped = DistributedDataParallel(model, find_unused_parameters=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    torch.manual_seed(5 + dist.get_rank())
    for _ in range(3):
        loss = wrapped(torch.randn(4, 3, 32, 32)).square().mean()
        loss = loss + sum(timm_stylenorm.style_losses(model).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


def main():
    torch.set_num_threads(1)
    dist.init_process_group('gloo')
    for method in [name for name in METHODS if name != 'dual_bn']:  # recipes: test_recipes_distributed
        assert same_everywhere(trained(method).parameters()), method
    model = trained('isw')
    select_pairs(model, [torch.randn(4, 3, 32, 32) for _ in range(1 + dist.get_rank())])
    layers = [layer for _, layer in timm_stylenorm.style_layers(model)]
    assert all(layer.chosen for layer in layers)
    assert same_everywhere(layer.mask for layer in layers), 'processes with other batches choose the same pairs'
    dist.barrier()
    gc.collect()  # DDP holds the group
    dist.destroy_process_group()
    sys.stdout.write('all agree\n')


def test_two_processes_agree_after_training_with_any_method():
    command = [sys.executable, '-W', 'ignore', '-m', 'torch.distributed.run', '--nproc_per_node', '2', '--standalone']
    out = subprocess.run(
        [*command, str(Path(__file__))],
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert out.returncode == 0, out.stderr[-3000:]
    assert out.stdout.count('all agree') == 2


if __name__ == '__main__':
    main()
