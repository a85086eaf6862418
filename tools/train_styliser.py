"""Trains the decoder of the AdaIN styliser on any image folder, and writes both files that the styliser reads.

    python tools/train_styliser.py data/imagenet/train --out data/adain [--iters 160000] [--size 256] [--batch-size 8]

Writes OUT/vgg_normalised.pth, timm's VGG-19 up to relu4_1 with filters of mean activation 1 on these images,
OUT/decoder.pth, and OUT/samples.png, which shows images (left) in the style of themselves and of others (top). Both
files have the layout of those published for AdaIN (Huang & Belongie, arXiv:1703.06868), and losses, optimizer and
schedule are theirs. If the same command is started again, it continues from OUT/training.pth and ends with the same
weights as an uninterrupted run.
"""

import argparse
from pathlib import Path

from cli import COUNT, SEED, at_least
from mistakes import command


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    own = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    own.add_argument('images', type=Path, help='folder with images, at any depth')
    own.add_argument('--out', type=Path, default=Path('data/adain'))
    own.add_argument(
        '--encoder-checkpoint',
        help="file with vgg19's weights, or vgg_normalised.pth (default: timm's vgg19, downloaded)",
    )
    own.add_argument('--iters', type=COUNT, default=160_000)
    own.add_argument('--batch-size', type=COUNT, default=8)
    own.add_argument('--size', type=COUNT, default=256, help='of the crops, from images of twice the size')
    own.add_argument('--lr', type=at_least(float, 0), default=1e-4)
    own.add_argument('--style-weight', type=at_least(float, 0), default=10.0)
    own.add_argument('--seed', type=SEED, default=0)
    own.add_argument('--workers', type=at_least(int, 0), default=4)
    own.add_argument('--save-every', type=COUNT, default=1000, metavar='ITERS')
    own.add_argument('--device', help='default: the GPU where there is one')
    return own.parse_args(argv)


@command
def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    args = parse_args(argv)
    from styliser import training

    picture = training.run(args)
    print(f'wrote {args.out / "vgg_normalised.pth"}, {args.out / "decoder.pth"} and {picture}')


if __name__ == '__main__':
    main()
