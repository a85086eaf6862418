"""A norm replacement is a batch norm for whoever looks for one, and modules inside of layers are called."""

import copy
import pickle

import pytest
import torch
import torch.distributed as dist
from expected import LONELY, UNTAKEN
from nets import small
from timm.layers import FrozenBatchNormAct2d, freeze_batch_norm_2d
from torch import nn
from torch.func import replace_all_batch_norm_modules_
from torch.nn.utils import parametrizations, prune
from torch.optim.swa_utils import update_bn
from torchvision.ops import FrozenBatchNorm2d

from timm_stylenorm import add_style, remove_style
from timm_stylenorm.layers import IBN, SNR, BatchInstanceNorm1d, BatchInstanceNorm2d, DualBatchNorm2d, SelfNorm
from timm_stylenorm.layers.dualbn import Halves

pytestmark = LONELY

OWNING = [BatchInstanceNorm2d, DualBatchNorm2d, IBN]


class Called(nn.Module):
    """Stands for what wraps a module: an adapter, a parametrization."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.scale = inner, nn.Parameter(torch.ones(()))

    def forward(self, x):
        return self.inner(x) * self.scale


class OtherBatchNorm(nn.BatchNorm2d):
    """Batch norm of a kind that is not torch's own."""


def net(kind):
    torch.manual_seed(0)
    layer = kind(8)
    for name, parameter in layer.named_parameters():
        nn.init.uniform_(parameter, 0.2, 0.8 if name.endswith('gate') else 1.5)
    return nn.Sequential(nn.Conv2d(3, 8, 3), layer, nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 2))


def inner(model):
    return [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]


def images(n=4):
    return torch.randn(n, 3, 8, 8) * 2 + 1


def state(model):
    return {k: v.clone() for k, v in model.state_dict().items()}


def unlike(model, before):
    return {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}


@pytest.mark.parametrize('kind', OWNING)
def test_timms_freezing_stops_the_statistics_and_the_weights_of_the_norm(kind):
    model = freeze_batch_norm_2d(net(kind).train())
    assert not inner(model)
    assert sum(isinstance(m, FrozenBatchNorm2d) for m in model.modules()) == 1 + (kind is DualBatchNorm2d)
    before, x = state(model), images()
    y = model.train()(x)
    y.sum().backward()
    assert unlike(model, before) == set()
    torch.testing.assert_close(model.eval()(x), y)
    assert {k for k, p in model[1].named_parameters() if p.grad is not None} == {
        BatchInstanceNorm2d: {'gate'}, DualBatchNorm2d: set(), IBN: {'IN.weight', 'IN.bias'}
    }[kind]  # fmt: skip


@pytest.mark.parametrize('kind', OWNING)
def test_a_plain_loop_freezes_the_statistics(kind):
    model = net(kind).train()
    for norm in inner(model):
        norm.eval()
    before, x = state(model), images()
    y = model(x)
    assert unlike(model, before) == set()
    torch.testing.assert_close(model.eval()(x), y)


@pytest.mark.parametrize('kind', OWNING)
def test_update_bn_estimates_what_the_batch_has(kind):
    model, x = net(kind), images(8)
    model(images())
    update_bn([x], model)
    features = model[0](x)
    norm = inner(model)[0]
    if kind is IBN:
        features = features[:, 4:]
    torch.testing.assert_close(norm.running_mean, features.mean((0, 2, 3)))
    assert norm.momentum == 0.1


@pytest.mark.parametrize('kind', OWNING)
def test_tents_set_up_normalises_by_the_batch_and_trains_the_norm(kind):
    model = net(kind).train().requires_grad_(False)
    for norm in inner(model):
        norm.requires_grad_(True)
        norm.track_running_stats, norm.running_mean, norm.running_var = False, None, None
    x = images()
    y = model(x)
    y.logsumexp(1).sum().backward()
    assert inner(model)[0].weight.grad.abs().sum() > 0
    torch.testing.assert_close(model.eval()(x), y)


@pytest.mark.parametrize('kind', OWNING)
def test_torch_func_finds_the_norms(kind):
    model = replace_all_batch_norm_modules_(net(kind).train())
    before = state(model)
    model(images())
    assert unlike(model, before) == set()
    gradient = torch.func.vmap(torch.func.grad(lambda x: model(x[None]).sum()), randomness='error')
    assert gradient(images()).isfinite().all()


@pytest.mark.parametrize('kind', OWNING)
@pytest.mark.parametrize('training', [True, False])
def test_a_norm_that_is_called_gives_what_one_that_is_read_gives(kind, training):
    model = net(kind).double()
    model(images().double())
    twin, x = copy.deepcopy(model), images().double().requires_grad_()
    for name in ('bn', 'BN'):
        norm = getattr(twin[1], name, None)
        if norm is not None:
            norm.__class__ = OtherBatchNorm
    results = []
    for each in (model, twin):
        y = each.train(training)(x)
        results.append((y, *torch.autograd.grad(y.square().sum(), [x, *inner(each)[0].parameters()])))
    torch.testing.assert_close(results[0], results[1])
    torch.testing.assert_close(state(model), state(twin))


@pytest.mark.parametrize('momentum', [0.2, None])
def test_running_statistics_move_as_torchs_do(momentum):
    layer, norm = BatchInstanceNorm2d(3, momentum=momentum), nn.BatchNorm2d(3, momentum=momentum)
    for x in (images(), images(2)):
        torch.testing.assert_close(layer(x), norm(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(layer.bn.state_dict(), norm.state_dict())


@pytest.mark.parametrize('arch', ['resnet18', 'efficientnet_b0'])
@pytest.mark.parametrize('style', ['bin', 'debiased'])
@pytest.mark.some(2)
def test_the_real_norm_comes_back_also_after_freezing(arch, style):
    plain = small(arch, num_classes=2).eval()
    model, x = add_style(copy.deepcopy(plain), style), torch.randn(2, 3, 32, 32)
    frozen = remove_style(freeze_batch_norm_2d(copy.deepcopy(model)))
    norms = [m for m in frozen.modules() if isinstance(m, FrozenBatchNorm2d | FrozenBatchNormAct2d)]
    assert len(norms) == len(inner(plain))
    torch.testing.assert_close(frozen(x), plain(x))
    assert list(remove_style(model).state_dict()) == list(plain.state_dict())
    assert torch.equal(model(x), plain(x))


@pytest.mark.parametrize('style', ['bin', 'debiased', 'ibn_a'])
def test_plain_and_flat_files_load_strictly(style):
    plain, model = small('resnet18', num_classes=2), small(f'resnet18_{style}', num_classes=2)
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    flat = {k.replace('.bn.', '.'): v for k, v in model.state_dict().items()}
    twin = small(f'resnet18_{style}', num_classes=2)
    twin.load_state_dict(flat, strict=True)
    torch.testing.assert_close(twin.state_dict(), model.state_dict(), rtol=0, atol=0)
    result = twin.load_state_dict(plain.state_dict(), strict=False)
    assert result == ([], [])
    own = {name for name, _ in [*model.named_parameters(), *model.named_buffers()]}
    assert own == set(model.state_dict())


@pytest.mark.parametrize('kind', OWNING)
def test_copies_and_pickles_give_the_same(kind):
    model, x = net(kind).eval(), images()
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(x), model(x))


def test_gates_stand_after_weight_and_bias_as_optimizer_states_of_old_runs_have_them():
    model = net(BatchInstanceNorm2d)
    names = [name for name, _ in model.named_parameters()]
    assert names[2:5] == ['1.bn.weight', '1.bn.bias', '1.gate']
    assert [id(p) for p in model.parameters()] == [id(model.get_parameter(name)) for name in names]


def test_features_only_keeps_the_norms():
    model = small('resnet18_bin', features_only=True)
    assert len(inner(model)) == 20
    assert [len(f) for f in model(torch.randn(2, 3, 32, 32))] == [2] * 5


def test_one_dimension_works_alike():
    layer, x = BatchInstanceNorm1d(4), torch.randn(3, 4, 9)
    torch.testing.assert_close(layer(x), nn.BatchNorm1d(4)(x), rtol=1e-4, atol=1e-5)


def replica(module):
    """What `nn.DataParallel` makes of a module: parameters are plain attributes, and tensors of a graph."""
    copies = {m: m._replicate_for_data_parallel() for m in module.modules()}
    for old, new in copies.items():
        for name, child in old._modules.items():
            if child is not None:
                setattr(new, name, copies[child])
        for name, value in old._parameters.items():
            setattr(new, name, None if value is None else value * 1)
        for name, value in old._buffers.items():
            setattr(new, name, value)
    return copies[module]


CHANGED = {
    'plain': lambda module: module,
    'weight norm': lambda module: parametrizations.weight_norm(module),
    'pruned': lambda module: prune.l1_unstructured(module, 'weight', 0.5),
    'wrapped': Called,
}
INSIDE = [
    (lambda: SNR(8, 2, num_classes=3), ('fc1', 'fc2', 'head')),
    (lambda: SNR(8, 2, num_classes=3, dense=True), ('fc1', 'fc2', 'head')),
    (lambda: SelfNorm(8), ('g_fc',)),
    (lambda: SelfNorm(8, two=True), ('g_fc', 'f_fc')),
    (lambda: SelfNorm(8), ('g_bn',)),
    (lambda: IBN(8), ('BN',)),
    (lambda: IBN(8), ('IN',)),
    (lambda: BatchInstanceNorm2d(8), ('bn',)),
    (lambda: DualBatchNorm2d(8), ('bn',)),
]


# the scales of a norm are a vector, which weight norm does not take
CELLS = [(*i, c) for i in INSIDE for c in CHANGED if c != 'weight norm' or i[1][0].startswith(('fc', 'g_fc'))]


@UNTAKEN
@pytest.mark.parametrize(('build', 'names', 'change'), CELLS)
def test_modules_inside_may_be_changed_and_replicated(build, names, change):
    torch.manual_seed(0)
    layer = build()
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    reference, x = copy.deepcopy(layer), torch.randn(4, 8, 5, 5)
    for name in names:
        setattr(layer, name, CHANGED[change](getattr(layer, name)))
        if change == 'pruned':
            with torch.no_grad():
                mask = dict(layer.named_buffers())[f'{name}.weight_mask']
                reference.get_parameter(f'{name}.weight').mul_(mask)
    y, expected = layer(x), reference(x)
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)
    loss = y.square().mean() + (0 if layer.aux is None else layer.aux)
    loss.backward()
    for name, parameter in layer.named_parameters():
        if not name.startswith('aux_bn'):
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all()
    if change != 'weight norm' and change != 'pruned':
        layer.zero_grad()
        twin = replica(layer)
        assert not list(twin.parameters())
        twin(x).square().mean().backward()
        assert all(layer.get_parameter(k).grad is not None for k, _ in layer.named_parameters() if names[0] in k[:3])


class MeanOverProcesses(torch.autograd.Function):
    """An all-reduce whose gradient is one, too."""

    @staticmethod
    def forward(ctx, x):
        x = x.clone()
        dist.all_reduce(x)
        return x / dist.get_world_size()

    @staticmethod
    def backward(ctx, g):
        g = g.clone()
        dist.all_reduce(g)
        return g / dist.get_world_size()


class StandIn(nn.BatchNorm2d):
    """A synchronised batch norm for CPUs, which torch's refuses."""

    def forward(self, x):
        mean = MeanOverProcesses.apply(x.mean((0, 2, 3)))
        square = MeanOverProcesses.apply(x.square().mean((0, 2, 3)))
        shape = (1, -1, 1, 1)
        y = (x - mean.view(shape)) * (square - mean.square() + self.eps).rsqrt().view(shape)
        return y * self.weight.view(shape) + self.bias.view(shape)


def _one_of_two(rank, path, kind):
    torch.set_num_threads(1)
    dist.init_process_group('gloo', init_method=f'file://{path}', rank=rank, world_size=2)
    model, (x, whole) = net(kind).double(), torch.load(f'{path}.x')
    for module in model.modules():
        for name, child in module.named_children():
            if type(child) is nn.BatchNorm2d:
                child.__class__ = StandIn
                assert name in ('bn', 'aux_bn', 'BN')
    y = model(x[2 * rank : 2 * rank + 2])
    y.square().sum().backward()
    gathered = [torch.empty_like(y) for _ in range(2)]
    dist.all_gather(gathered, y.detach())
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    for gradient in gradients:
        dist.all_reduce(gradient)
    torch.testing.assert_close([torch.cat(gathered), *gradients], whole, rtol=1e-9, atol=1e-11)
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize('kind', OWNING)
def test_two_processes_with_synchronised_norms_equal_one_with_the_whole_batch(kind, tmp_path):
    model, x = net(kind).double(), images().double()
    y = model(x)
    y.square().sum().backward()
    whole = [y.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]
    torch.save((x, whole), tmp_path / 'store.x')
    torch.multiprocessing.spawn(_one_of_two, (str(tmp_path / 'store'), kind), nprocs=2)


def test_an_auxiliary_half_without_statistics_takes_a_mask():
    layer = DualBatchNorm2d(3)
    layer.route = Halves.of([False, False, True, True])
    assert replace_all_batch_norm_modules_(layer)(images()).isfinite().all()
