"""Stands for timm's onnx_export.py, which is not in timm's package."""

import argparse

import timm
from timm.utils.model import reparameterize_model
from timm.utils.onnx import onnx_export

parser = argparse.ArgumentParser()
parser.add_argument('output')
parser.add_argument('--model', default='resnet18')
parser.add_argument('--num-classes', type=int, default=3)
parser.add_argument('--img-size', type=int, default=32)
parser.add_argument('--checkpoint', default='')
parser.add_argument('--reparam', action='store_true')
parser.add_argument('--dynamo', action='store_true')


def main():
    args = parser.parse_args()
    model = timm.create_model(
        args.model,
        num_classes=args.num_classes,
        in_chans=3,
        pretrained=args.checkpoint == '',
        checkpoint_path=args.checkpoint,
        exportable=True,
    )
    if args.reparam:
        model = reparameterize_model(model)
    size = (3, args.img_size, args.img_size)
    onnx_export(model, args.output, batch_size=2, input_size=size, check_forward=True, use_dynamo=args.dynamo)


if __name__ == '__main__':
    main()
