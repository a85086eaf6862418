"""Stands for timm's validate.py, which is not in timm's package."""

import argparse
import sys

import torch
from timm.data import create_dataset, create_loader, resolve_data_config
from timm.models import create_model, load_checkpoint
from timm.task import ClassificationEvaluator

parser = argparse.ArgumentParser()
parser.add_argument('--data-dir')
parser.add_argument('--model', default='resnet18')
parser.add_argument('--num-classes', type=int, default=3)
parser.add_argument('--img-size', type=int, default=32)
parser.add_argument('--checkpoint')
parser.add_argument('--use-ema', action='store_true')


@torch.no_grad()
def validate(args):
    model = create_model(args.model, num_classes=args.num_classes)
    load_checkpoint(model, args.checkpoint, args.use_ema)
    data = resolve_data_config(vars(args), model=model)
    dataset = create_dataset('', root=args.data_dir, split='validation')
    options = {key: data[key] for key in ('input_size', 'mean', 'std', 'interpolation', 'crop_pct')}
    loader = create_loader(dataset, batch_size=4, num_workers=0, use_prefetcher=False, **options)
    model.eval()
    evaluator = ClassificationEvaluator()
    for images, target in loader:
        evaluator.update(model(images), target)
    return evaluator.compute()


if __name__ == '__main__':
    print(dict(validate(parser.parse_args())))  # noqa: T201
    sys.exit(3)  # a code of its own, to be seen after the launcher
