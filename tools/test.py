"""Evaluates a checkpoint: python tools/test.py CONFIG CHECKPOINT [--out FOLDER] [--show-dir FOLDER]."""

import argparse

from _cli import check_data, load_config, parser
from mmengine.runner import Runner


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    own = parser(__doc__)
    own.add_argument('checkpoint', help='.pth file or URL')
    own.add_argument('--out', help='folder for the predictions as PNG files (segmentation)')
    own.add_argument('--show-dir', help='folder for coloured overlays (segmentation)')
    own.add_argument('--tta', action='store_true', help='test-time augmentation of the config (segmentation)')
    return own.parse_args(argv)


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Entry point; returns the metrics."""
    args = parse_args(argv)
    cfg = load_config(args)
    check_data(cfg.get('test_dataloader'), args.config)
    cfg.load_from, cfg.resume = args.checkpoint, False
    if args.out:
        cfg.merge_from_dict({'test_evaluator': {'output_dir': args.out, 'keep_results': True}})
    if args.show_dir:
        cfg.merge_from_dict(
            {'default_hooks': {'visualization': {'draw': True}}, 'visualizer': {'save_dir': args.show_dir}}
        )
    if args.tta:
        cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline
        cfg.model = {**cfg.tta_model, 'module': cfg.model}
    return Runner.from_cfg(cfg).test()


if __name__ == '__main__':
    main()
