"""Stands for timm's inference.py, which is not in timm's package: images without labels, the classes of each."""

import argparse
import json
from pathlib import Path

import torch
from timm.data import create_dataset, create_loader, resolve_data_config
from timm.models import create_model

parser = argparse.ArgumentParser()
parser.add_argument('--data-dir')
parser.add_argument('--results-file')
parser.add_argument('--model', default='resnet18')
parser.add_argument('--num-classes', type=int, default=3)
parser.add_argument('--img-size', type=int, default=32)
parser.add_argument('--checkpoint', default='')
parser.add_argument('--torchscript', action='store_true')


@torch.no_grad()
def main():
    args = parser.parse_args()
    model = create_model(
        args.model,
        num_classes=args.num_classes,
        in_chans=3,
        pretrained=args.checkpoint == '',
        checkpoint_path=args.checkpoint,
    )
    data = resolve_data_config(vars(args), model=model)
    model.eval()
    if args.torchscript:
        model = torch.jit.script(model)
    dataset = create_dataset(root=args.data_dir, name='')
    options = {key: data[key] for key in ('input_size', 'mean', 'std', 'interpolation', 'crop_pct')}
    loader = create_loader(dataset, batch_size=4, num_workers=0, use_prefetcher=False, **options)
    found = [row for images, _ in loader for row in model(images).softmax(-1).tolist()]
    Path(args.results_file).write_text(json.dumps(found))


if __name__ == '__main__':
    main()
