"""Adaptation in mmengine's Runner: an optimizer each, mixed precision, schedules, exact resume."""

import itertools
import re

import pytest
import torch
import torch.nn.functional as F
from since import since
from torch import nn

pytest.importorskip('mmseg')
from mmengine.optim import OptimWrapper, build_optim_wrapper
from tiny_uda import build, config, gradients, losses_of, train

from mmseg_stylenorm.uda import JointOptimWrapperDict
from timm_stylenorm.runner import optim


def two_wrappers(model, first=OptimWrapper, **options):
    head, tail = (torch.optim.SGD(part.parameters(), lr=0.1) for part in model)
    return JointOptimWrapperDict(segmentor=first(head, **options), discriminator=OptimWrapper(tail, clip_grad=CLIP))


CLIP = {'max_norm': 1e-3}


class ScaledWrapper(OptimWrapper):
    """mmengine's fp16 wrapper without its demand for a GPU."""

    def __init__(self, optimizer):
        super().__init__(optimizer)
        self.loss_scaler = torch.amp.GradScaler('cpu', init_scale=1024.0)

    def backward(self, loss):
        self.loss_scaler.scale(loss).backward()
        self._inner_count += 1

    def step(self):
        self.loss_scaler.step(self.optimizer)
        self.loss_scaler.update()


def stepped(first=OptimWrapper, count=1, **options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1))
    wrappers = two_wrappers(model, first, **options)
    wrappers.initialize_count_status(model, 0, count)
    states = []
    for k in range(count):
        with wrappers.optim_context(model):
            loss = model(torch.full((2, 4), float(k + 1))).square().mean()
        wrappers.update_params(loss)
        states.append([p.detach().clone() for p in model.parameters()])
    return states


@since('torch', '2.3', 'no loss scale on CPUs')
def test_a_loss_scale_is_taken_out_of_both_optimizers():
    for scaled, plain in zip(stepped(ScaledWrapper)[0], stepped()[0], strict=True):
        torch.testing.assert_close(scaled, plain)


def test_both_optimizers_wait_for_accumulated_gradients():
    states = stepped(count=4, accumulative_counts=2)
    moved = [[not torch.equal(a, b) for a, b in zip(s, t, strict=True)] for s, t in itertools.pairwise(states)]
    assert moved == [[True] * 4, [False] * 4, [True] * 4]


def test_each_optimizer_has_its_own_parameters_and_rates():
    model = build('fada')
    cfg = config('fada', 'unused').optim_wrapper
    cfg.paramwise_cfg = {'custom_keys': {'decode_head': {'lr_mult': 10.0}}}
    wrappers = build_optim_wrapper(model, cfg)
    found = [{p for group in w.optimizer.param_groups for p in group['params']} for w in wrappers.values()]
    assert found[1] == set(model.discriminator.parameters())
    assert found[0] == set(model.parameters()) - found[1]
    head = [
        g['lr'] for g in wrappers['segmentor'].param_groups if g['params'][0] in set(model.decode_head.parameters())
    ]
    assert head == [pytest.approx(0.5)] * len(head)
    with pytest.raises(ValueError, match='MaxSquareUDA has no discriminator'):
        build_optim_wrapper(build('maxsquare'), cfg)
    cfg.pop('discriminator')
    with pytest.raises(ValueError, match=re.escape('lacks discriminator=dict(')):
        build_optim_wrapper(model, cfg)


def flat(tree):
    """Tensors and numbers of a nested state, in order."""
    if isinstance(tree, dict):
        tree = list(tree.values())
    return [leaf for part in tree for leaf in flat(part)] if isinstance(tree, list | tuple) else [tree]


@pytest.mark.parametrize(
    ('kind', 'workers'),
    [('fada', 0), *(pytest.param(*run, marks=pytest.mark.slow) for run in [('fada', 2), ('maxsquare', 2)])],
)
def test_a_run_that_was_stopped_resumes_bit_for_bit_with_all_its_optimizers(kind, workers, tmp_path):
    whole = train(kind, tmp_path / 'whole', iters=5, workers=workers)
    train(kind, tmp_path / 'parts', iters=5, stop=3, workers=workers)
    resumed = train(kind, tmp_path / 'parts', iters=5, workers=workers, resume=True)
    assert resumed.iter == 5
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    ours, theirs = (flat(run.optim_wrapper.state_dict()) for run in (resumed, whole))
    assert len(ours) > 100
    assert all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in zip(ours, theirs, strict=True))


def test_both_optimizers_have_a_schedule_of_their_own(tmp_path):
    poly = {'type': 'PolyLR', 'eta_min': 0.0, 'end': 11, 'by_epoch': False}
    schedules = {'segmentor': [{**poly, 'power': 1.0}], 'discriminator': [{**poly, 'power': 2.0}]}
    rates = train('fada', tmp_path, iters=5, param_scheduler=schedules).optim_wrapper.get_lr()
    assert rates['segmentor.lr'][0] == pytest.approx(0.05 * 0.5)
    assert rates['discriminator.lr'][0] == pytest.approx(1e-3 * 0.25)


@pytest.mark.skipif(torch.cuda.is_available(), reason='bfloat16 on a CPU')
def test_fada_trains_in_mixed_precision(tmp_path):
    cfg = config('fada', tmp_path)
    optim.enable_amp(cfg)
    run = train('fada', tmp_path, iters=2, optim_wrapper=cfg.optim_wrapper)
    assert type(run.optim_wrapper['segmentor']).__name__ == 'CPUAmpOptimWrapper'
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in run.model.parameters())
    data, _ = losses_of(run.model)
    torch.manual_seed(0)  # of pAdaIN
    losses = run.model(**data, mode='loss')
    torch.manual_seed(0)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        half = run.model(**data, mode='loss')
    for name in ('adversarial.loss_target', 'discriminator.loss_source', 'discriminator.loss_target'):
        assert half[name].dtype == torch.float32
        torch.testing.assert_close(half[name], losses[name], rtol=0.05, atol=0)
    whole, half = (gradients(run.model, run.model.parse_losses(part)[0]) for part in (losses, half))
    for name in ('decode_head.conv2d_list.0.weight', 'discriminator.cls1.weight', 'discriminator.D.0.weight'):
        assert F.cosine_similarity(whole[name].flatten(), half[name].flatten(), 0) > 0.95, name
    assert half.keys() == whole.keys()
