"""Stands for timm's train.py, which is not in timm's package: the same public calls in the same order, little else."""

import argparse
import logging
from contextlib import nullcontext
from pathlib import Path

import torch
from timm.data import Mixup, create_dataset, create_loader, resolve_data_config
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from timm.models import create_model
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.task import ClassificationTask, load_task_ema_checkpoint, resume_task_checkpoint
from timm.utils import CheckpointSaver, distribute_bn, init_distributed_device, is_primary, setup_default_logging

parser = argparse.ArgumentParser()
parser.add_argument('--data-dir')
parser.add_argument('--model', default='resnet18')
parser.add_argument('--num-classes', type=int, default=3)
parser.add_argument('--img-size', type=int, default=32)
parser.add_argument('--batch-size', type=int, default=4)
parser.add_argument('--epochs', type=int, default=1)
parser.add_argument('--sched-on-updates', action='store_true')
parser.add_argument('--lr', type=float, default=0.01)
parser.add_argument('--initial-checkpoint', default='')
parser.add_argument('--resume', default='')
parser.add_argument('--output')
parser.add_argument('--grad-accum-steps', type=int, default=1)
parser.add_argument('--smoothing', type=float, default=0.1)
parser.add_argument('--mixup', type=float, default=0.0)
parser.add_argument('--model-ema', action='store_true')
parser.add_argument('--amp', action='store_true')
parser.add_argument('--torchcompile', default='')
parser.add_argument('--device', default='cpu')


def train_one_epoch(epoch, args, task, loader, optimizer, scheduler, mixup, updates):
    task.train()
    optimizer.zero_grad()
    for i, (images, target) in enumerate(loader):
        need_update = (i + 1) % args.grad_accum_steps == 0
        if mixup is not None:
            images, target = mixup(images, target)
        with nullcontext() if need_update else task.no_sync():
            with torch.autocast('cpu', torch.bfloat16, enabled=args.amp):
                result = task(images, target)
                loss = result['loss']
                loss /= args.grad_accum_steps
            loss.backward()
        if is_primary(args):
            logging.info('train %s', {k: round(v.item(), 4) for k, v in result.items() if k != 'output'})
        if need_update:
            torch.nn.utils.clip_grad_norm_(task.get_clip_parameters(), 10.0)
            optimizer.step()
            optimizer.zero_grad()
            updates += 1
            task.update_ema(step=updates)
            scheduler.step_update(num_updates=updates)
    return updates


def validate(task, loader, args, ema=False):
    model = task.get_eval_model(ema=ema)
    model.eval()
    evaluator = task.create_evaluator()
    with torch.no_grad():
        for images, target in loader:
            evaluator.update(model(images), target)
    return evaluator.compute(distributed=args.distributed)


def main():
    setup_default_logging()
    args = parser.parse_args()
    device = init_distributed_device(args)
    torch.manual_seed(42 + args.rank)
    model = create_model(
        args.model, pretrained=False, num_classes=args.num_classes, checkpoint_path=args.initial_checkpoint
    )
    data_config = resolve_data_config(vars(args), model=model)
    model.to(device=device)
    task = ClassificationTask(
        model=model,
        criterion=SoftTargetCrossEntropy() if args.mixup else LabelSmoothingCrossEntropy(args.smoothing),
        device=device,
        verbose=is_primary(args),
    )
    optimizer = create_optimizer_v2(model, opt='sgd', lr=args.lr, weight_decay=1e-4)
    start = 0
    if args.resume:
        start = resume_task_checkpoint(task, args.resume, optimizer)
    if args.model_ema:
        task.setup_ema(decay=0.5)
        if args.resume:
            load_task_ema_checkpoint(task, args.resume)
    if args.torchcompile:
        task.compile(backend=args.torchcompile)
    if args.distributed:
        task.prepare_distributed(device_ids=[device])
    loaders = [
        create_loader(
            create_dataset('', root=args.data_dir, split=split, is_training=split == 'train'),
            **{key: data_config[key] for key in ('input_size', 'mean', 'std', 'interpolation', 'crop_pct')},
            batch_size=args.batch_size,
            is_training=split == 'train',
            no_aug=True,
            num_workers=0,
            distributed=args.distributed,
            use_prefetcher=False,
            device=device,
        )
        for split in ('train', 'validation')
    ]
    mixup = Mixup(args.mixup, num_classes=args.num_classes) if args.mixup else None
    saver = None
    if is_primary(args):
        Path(args.output).mkdir(parents=True, exist_ok=True)
        saver = CheckpointSaver(
            task.get_trainable_module(), optimizer, args=args, checkpoint_dir=args.output, task=task, max_history=1
        )
    per_epoch = len(loaders[0]) // args.grad_accum_steps
    scheduler, epochs = create_scheduler_v2(
        optimizer,
        sched='step',
        num_epochs=args.epochs,
        decay_epochs=100,
        step_on_epochs=not args.sched_on_updates,
        updates_per_epoch=per_epoch,
    )
    if start and args.sched_on_updates:
        scheduler.step_update(start * per_epoch)
    elif start:
        scheduler.step(start)
    updates = start * per_epoch
    for epoch in range(start, epochs):
        updates = train_one_epoch(epoch, args, task, loaders[0], optimizer, scheduler, mixup, updates)
        if args.distributed:
            distribute_bn(task.get_eval_model(), args.world_size, reduce=True)
        metrics = validate(task, loaders[1], args)
        if args.model_ema:
            metrics['ema_loss'] = validate(task, loaders[1], args, ema=True)['loss']
        if saver is not None:
            logging.info('eval %s', dict(metrics))
            saver.save_checkpoint(epoch, metric=metrics['top1'])
        scheduler.step(epoch + 1, metrics['top1'])
    torch.save(task.get_checkpoint_state(), Path(args.output) / f'rank{args.rank}.pth')
    if args.distributed:
        torch.distributed.destroy_process_group()


if __name__ == '__main__':
    main()
