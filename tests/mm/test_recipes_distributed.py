"""Two gloo processes train every recipe in both mmengine hosts: ranks attack and stylise their own images and agree."""

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import distributed as dist

pytest.importorskip('mmseg')
from mmengine.config import Config, ConfigDict
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATASETS, MODELS, init_default_scope
from mmengine.runner import Runner
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

import mmseg_stylenorm  # noqa: F401 (registers)
import timm_stylenorm.classification  # noqa: F401 (registers)
from timm_stylenorm.runner import distributed

pytestmark = [pytest.mark.slow, pytest.mark.skipif(torch.cuda.is_available(), reason='checks the way without a GPU')]
STEPS = 20
RECIPES = {
    'advbn': dict(type='advbn', steps=2),
    'advbn of one step': dict(type='advbn', steps=1),
    'advbn, trainable': dict(type='advbn', steps=1, lower='trainable'),
    'debiased': dict(type='debiased', styliser='pixel'),
}
HEAD = dict(channels=8, num_classes=4, norm_cfg=dict(type='BN'), num_convs=1)


def classifier(recipe):
    return dict(type='StyleNormClassifier', model='test_resnet', num_classes=4, recipe=recipe)


def segmentor(recipe):
    norm = dict(type='BN')
    return dict(
        type='StyleNormEncoderDecoder',
        backbone=dict(type='ResNetV1c', depth=18, base_channels=8, stem_channels=8, norm_cfg=norm),
        decode_head=dict(type='FCNHead', in_channels=64, in_index=3, **HEAD),
        auxiliary_head=dict(type='FCNHead', in_channels=32, in_index=2, **HEAD),
        data_preprocessor=dict(type='SegDataPreProcessor', mean=[99.0] * 3, std=[66.0] * 3, size=(64, 64)),
        train_cfg={},
        test_cfg=dict(mode='whole'),
        recipe=recipe,
    )


def images():
    return torch.randint(256, (4, 3, 64, 64)).byte()


def batch_of_classifier():
    return dict(inputs=images(), targets=torch.arange(4))


def batch_of_segmentor():
    labels = torch.randint(4, (4, 1, 64, 64))
    return dict(inputs=list(images()), data_samples=[SegDataSample(gt_sem_seg=PixelData(data=x)) for x in labels])


HOSTS = {'classifier': (classifier, batch_of_classifier), 'segmentor': (segmentor, batch_of_segmentor)}


def everywhere(tensors):
    """What each process holds, as one vector."""
    flat = torch.cat([t.detach().flatten().float() for t in tensors])
    gathered = [torch.empty_like(flat) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, flat)
    return gathered


def trained(host, recipe):
    """The model after some steps, its last loss, and how many gradients were synchronised."""
    model, batch = HOSTS[host]
    torch.manual_seed(0)
    wrapped = MMDistributedDataParallel(
        MODELS.build(ConfigDict(model(recipe))).train(), broadcast_buffers=False, find_unused_parameters=False
    )
    sums = []
    wrapped.register_comm_hook(None, lambda state, bucket: sums.append(1) or allreduce_hook(None, bucket))
    optimizer = build_optim_wrapper(wrapped, ConfigDict(optimizer=dict(type='SGD', lr=0.01, momentum=0.9)))
    torch.manual_seed(5 + dist.get_rank())
    for _ in range(STEPS):
        log = wrapped.train_step(batch(), optimizer)
    return wrapped.module, log['loss'], len(sums)


def check(host, recipe):
    model, loss, sums = trained(host, recipe)
    first, second = everywhere(model.parameters())
    assert first.isfinite().all()
    assert torch.equal(first, second), 'ranks drifted apart'
    first, second = everywhere([loss])
    assert not torch.equal(first, second), 'ranks have images of their own'
    auxiliary = {name: p for name, p in model.named_parameters() if 'aux_bn' in name and p.requires_grad}
    assert auxiliary
    assert any(not torch.equal(p, model.get_parameter(name.replace('.aux_bn', '.bn'))) for name, p in auxiliary.items())
    return sums


@DATASETS.register_module()
class SixteenImages(torch.utils.data.Dataset):
    """What the Runner reads."""

    def __len__(self):
        return 16

    def __getitem__(self, index):
        return dict(inputs=images()[0], targets=index % 4)


def train_by_runner(work_dir):
    """The whole way of tools/train.py, with the key for SyncBN, which needs a GPU."""
    cfg = Config(dict(
        model=classifier(RECIPES['advbn']), work_dir=work_dir, launcher='pytorch', sync_bn='torch', log_level='WARNING',
        train_dataloader=dict(
            batch_size=4, num_workers=0, dataset=dict(type='SixteenImages'), collate_fn=dict(type='default_collate'),
            sampler=dict(type='DefaultSampler'),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=1), optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01)),
        custom_hooks=[dict(type='RNGStateHook')], default_scope='mmengine',
    ))  # fmt: skip
    distributed.prepare_cpu_distributed(cfg, 'pytorch')
    model = Runner.from_cfg(cfg).train()
    first, second = everywhere(model.parameters())
    assert torch.equal(first, second)


def main(work_dir):
    torch.set_num_threads(1)
    dist.init_process_group('gloo')
    init_default_scope('mmseg')
    for host in HOSTS:
        sums = {name: check(host, recipe) for name, recipe in RECIPES.items()}
        assert sums['advbn'] == sums['advbn of one step'], 'the ascent synchronises nothing'
    train_by_runner(work_dir)
    dist.barrier()
    gc.collect()  # DDP holds the group
    dist.destroy_process_group()
    sys.stdout.write('all agree\n')


def test_two_processes_agree_after_twenty_steps_of_any_recipe(tmp_path):
    command = [sys.executable, '-W', 'ignore', '-m', 'torch.distributed.run', '--nproc_per_node', '2', '--standalone']
    out = subprocess.run(
        [*command, str(Path(__file__)), str(tmp_path)],
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert out.returncode == 0, out.stderr[-3000:]
    assert out.stdout.count('all agree') == 2


if __name__ == '__main__':
    main(sys.argv[1])
