"""Losses of layers where a model runs inside of something, or twice: right, or told."""

import os
import socket
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from nets import small
from torch import nn
from torch.utils.checkpoint import checkpoint

import timm_stylenorm
from timm_stylenorm import style_losses, summed_losses

TARGET = torch.arange(4)


def styled(method='snr'):
    torch.manual_seed(0)
    options = {'num_classes': 4} if method == 'snr' else {}
    return timm_stylenorm.add_style(small('resnet18', num_classes=4), {'type': method, **options}).train()


def images(seed=1, size=64):
    return torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(autouse=True)
def _no_other_warning():
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        yield


@pytest.mark.parametrize('method', ['snr', 'irw'])
def test_a_second_forward_tells_that_the_loss_of_the_first_is_lost(method):
    model = styled(method)
    model(images())
    with pytest.warns(UserWarning, match=rf'{method}.*: nobody took the loss of the last forward'):
        model(images(2))
    model.eval()(images(2))


@pytest.mark.parametrize('method', ['snr', 'irw'])
def test_losses_of_several_forwards_add_up_where_asked_for(method):
    model = styled(method)
    single = []
    for seed in (1, 2):
        model(images(seed))
        single.append(style_losses(model, TARGET))
    with summed_losses(model):
        for seed in (1, 2):
            model(images(seed))
    both = style_losses(model, torch.cat([TARGET, TARGET]))
    assert both.keys() == single[0].keys()
    for key, value in both.items():
        mean = 2 if key.endswith('.ce') else 1  # over the labels of both
        torch.testing.assert_close(value, (single[0][key] + single[1][key]) / mean)
    model(images())
    model.eval()
    assert style_losses(model, TARGET)
    assert not any(layer.sums for _, layer in timm_stylenorm.style_layers(model))


def test_replicas_keep_their_losses_and_that_is_told():
    model = styled()
    replica = styled()
    replica(images())
    with pytest.warns(UserWarning, match=r'snr: layers that have a loss left none.*nn\.DataParallel'):
        assert style_losses(model, TARGET) == {}


@pytest.mark.parametrize('reentrant', [True, False])
def test_a_loss_without_a_graph_is_told_of(reentrant):
    model = styled()
    block = model.layer2.forward
    model.layer2.forward = lambda x: checkpoint(block, x, use_reentrant=reentrant)
    model(images())
    if reentrant:
        with pytest.warns(UserWarning, match=r'snr: losses of layers train nothing.*use_reentrant=False'):
            style_losses(model, TARGET)
    else:
        sum(style_losses(model, TARGET).values()).backward()
        layer = model.layer2[-1].style['snr']
        assert all(p.grad is not None for name, p in layer.named_parameters() if 'head' not in name)


@pytest.mark.parametrize('method', ['snr', 'irw', 'isw'])
def test_nothing_is_told_where_all_is_well(method):
    model = styled(method)
    for training in (True, False, True):
        model.train(training)
        with warnings.catch_warnings():
            warnings.filterwarnings('ignore', 'isw: no pairs')
            model(images())
        style_losses(model, TARGET)
    with torch.no_grad():
        style_losses(model.train(), TARGET)


def gradients_of(model, batch, target):
    loss = F.cross_entropy(model(batch), target) + sum(style_losses(model, target).values())
    loss.backward()
    return {name: p.grad for name, p in model.named_parameters()}


def sharded():
    """One of two processes: its half of the batch through a model that is sharded by block."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    torch.set_num_threads(1)
    torch.distributed.init_process_group('gloo')
    mesh, rank = init_device_mesh('cpu', (2,)), torch.distributed.get_rank()
    model = styled().eval()
    for _, layer in timm_stylenorm.style_layers(model):
        layer.train()
    expected = gradients_of(model, images(), TARGET)
    model.zero_grad()
    for stage in (model.layer1, model.layer2, model.layer3, model.layer4):
        for block in stage:
            fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    half = slice(2 * rank, 2 * rank + 2)
    found = gradients_of(model, images()[half], TARGET[half])
    for name, gradient in found.items():
        torch.testing.assert_close(gradient.full_tensor(), expected[name], rtol=1e-4, atol=1e-6, msg=name)
    torch.distributed.barrier()
    os._exit(0)  # gloo's threads may abort a process that ends in the usual way


@pytest.mark.slow
def test_shards_of_fsdp2_have_the_gradients_of_one_process():
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = str(free.getsockname()[1])
    common = {**os.environ, 'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': port, 'WORLD_SIZE': '2'}
    common['PYTHONPATH'] = os.pathsep.join(path for path in sys.path if path)
    line = [sys.executable, '-c', 'import test_losses_in_wrappers as t; t.sharded()']
    runs = [
        subprocess.Popen(line, env={**common, 'RANK': str(rank)}, stderr=subprocess.PIPE, cwd=Path(__file__).parent)
        for rank in range(2)
    ]
    errors = [run.communicate(timeout=300)[1].decode() for run in runs]
    assert [run.returncode for run in runs] == [0, 0], '\n'.join(errors)


def test_modules_without_style_have_no_losses():
    assert style_losses(nn.Linear(2, 2).train()) == {}


class Adapter(nn.Module):
    """As peft's LoRA wraps a convolution."""

    def __init__(self, conv):
        super().__init__()
        self.base_layer = conv
        self.down = nn.Conv2d(conv.in_channels, 2, conv.kernel_size, conv.stride, conv.padding, bias=False)
        self.up = nn.Conv2d(2, conv.out_channels, 1, bias=False)

    def forward(self, x):
        return self.base_layer(x) + self.up(self.down(x))

    def merged(self):
        """One convolution that computes the same."""
        conv = nn.Conv2d(self.down.in_channels, self.up.out_channels, 3, self.down.stride, 1, bias=False)
        delta = torch.einsum('ob,bihw->oihw', self.up.weight[:, :, 0, 0], self.down.weight)
        conv.weight = nn.Parameter(self.base_layer.weight + delta)
        return conv


@pytest.mark.parametrize('method', ['selfnorm', 'padain'])
def test_an_adapter_around_a_styled_convolution_is_refused(method):
    model = timm_stylenorm.add_style(small('resnet18', num_classes=4), method, sites='convs')
    wrapped = nn.Sequential(model)  # as peft wraps the model itself
    model.layer2[0].conv1 = torch.compile(model.layer2[0].conv1)
    style_losses(wrapped)
    model.layer1[0].conv1 = Adapter(model.layer1[0].conv1)
    with pytest.raises(ValueError, match=r"'layer1.0.conv1' is inside of Adapter now, .*; wrap the plain model"):
        style_losses(wrapped)


def test_a_style_around_an_adapter_restyles_the_sum():
    model = small('resnet18', num_classes=4)
    model.layer1[0].conv1 = Adapter(model.layer1[0].conv1)
    timm_stylenorm.add_style(model, 'selfnorm', sites='convs')
    layer = model.layer1[0].conv1.style['selfnorm']
    seen = []
    layer.register_forward_hook(lambda layer, args, y: seen.append(args[0]))
    model.eval()(x := images())
    assert style_losses(model) == {}
    stem = model.maxpool(model.act1(model.bn1(model.conv1(x))))
    torch.testing.assert_close(seen[0], model.layer1[0].conv1.merged()(stem))
