"""Trains a segmentor or a classifier: python tools/train.py CONFIG [--style NAME KEY=VALUE ...] [--resume].

The work dir then holds the whole config, including the style: python tools/test.py WORK_DIR/CONFIG.py CHECKPOINT.
"""

import argparse
from contextlib import nullcontext

from cli import SEED, check_data, load_config, parser, require
from disk import claimed
from mistakes import command


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    own = parser(__doc__)
    own.add_argument('--resume', action='store_true', help='go on from the newest checkpoint of the work dir, if any')
    own.add_argument('--resume-from', metavar='PATH', help='go on from this checkpoint')
    own.add_argument('--amp', action='store_true', help='mixed precision: fp16 on a GPU, bfloat16 on a CPU')
    own.add_argument('--seed', type=SEED, help='for exact repetition and resume')
    return own.parse_args(argv)


@command
def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    args = parse_args(argv)
    from timm_stylenorm.runner.optim import check_optimizer, enable_amp
    from timm_stylenorm.runner.terminal import QuietRunner

    cfg = load_config(args)
    require(cfg, args.config, 'train_dataloader', 'train_cfg', 'optim_wrapper')
    check_data(cfg.get('train_dataloader'), args.config)
    check_data(cfg.get('val_dataloader'), args.config)
    check_optimizer(cfg)
    if args.amp:
        enable_amp(cfg)
    if args.seed is not None:
        cfg.randomness = {**cfg.get('randomness', {}), 'seed': args.seed}
    if args.resume or args.resume_from:
        cfg.resume = True  # from the newest checkpoint of the work dir; without any, training starts from load_from
    if args.resume_from:
        cfg.load_from = cfg.resume_from = args.resume_from
    elif args.resume:
        cfg.pop('resume_from', None)
    alone = args.launcher == 'none'  # otherwise the first process claims it, once the ranks are known
    with claimed(cfg.work_dir, 'training', 'choose another --work-dir') if alone else nullcontext():
        QuietRunner.from_cfg(cfg).train()


if __name__ == '__main__':
    main()
