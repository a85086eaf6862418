"""Trains any config, segmentation or classification: python tools/train.py segmentation/NAME.py [--resume] [--amp]."""

import argparse

from _cli import check_data, load_config, parser
from mmengine.runner import Runner

from timm_stylenorm.engine import enable_amp


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    own = parser(__doc__)
    own.add_argument(
        '--resume', nargs='?', const='auto', help='the newest checkpoint of the work dir, or the one given'
    )
    own.add_argument('--amp', action='store_true', help='mixed precision: fp16 on a GPU, bfloat16 on a CPU')
    own.add_argument('--seed', type=int, help='for exact repetition and resume')
    return own.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    args = parse_args(argv)
    cfg = load_config(args)
    check_data(cfg.get('train_dataloader'), args.config)
    check_data(cfg.get('val_dataloader'), args.config)
    if args.amp:
        enable_amp(cfg)
    if args.seed is not None:
        cfg.randomness = {**cfg.get('randomness', {}), 'seed': args.seed}
    if args.resume:
        cfg.resume = True
        cfg.load_from = None if args.resume == 'auto' else args.resume
    Runner.from_cfg(cfg).train()


if __name__ == '__main__':
    main()
