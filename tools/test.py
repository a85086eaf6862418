"""Evaluates a checkpoint: python tools/test.py CONFIG CHECKPOINT [--data CONFIG] [--out FOLDER] [--show-dir FOLDER].

If the config tests with `DomainIoUMetric`, per-domain results go to the folder of the run's log, WORK_DIR/TIMESTAMP:
domains.json, domains.png and confusion.png. --out mirrors the folders of the images, in a folder for each domain.
--data _base_/datasets/gtav2domains_768x768.py tests any segmentor on the domains of that file.
--protocols imagenet-c imagenet-r measures a classifier by robustness protocols, whose files are below --root, and
writes a report to --out, as evaluate.py does for any model.
A model trained with --style is tested with the same --style, or by the config in its work dir.
"""

from __future__ import annotations

import argparse
import importlib.util
from typing import TYPE_CHECKING

import evaluate
from classifiers import classifier_of, model_of
from cli import check_data, data_config, load_config, merge_options, parser, require
from mistakes import command

if TYPE_CHECKING:
    from mmengine.config import Config


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    own = parser(__doc__)
    own.add_argument('checkpoint', help='.pth file or URL')
    own.add_argument('--data', help='config, by path or name below configs/, whose test data and metric replace those')
    own.add_argument('--protocols', nargs='+', metavar='NAME', help='of `stylenorm evaluate --list` (classification)')
    own.add_argument('--root', default='data', help='with a folder for each protocol, or that of the only one')
    own.add_argument('--out', help='folder for the predictions as PNG files (segmentation), or for the report')
    own.add_argument('--show-dir', help='folder for coloured overlays (segmentation)')
    own.add_argument('--tta', action='store_true', help='test-time augmentation of the config (segmentation)')
    return own.parse_args(argv)


def by_protocols(cfg: Config, args: argparse.Namespace) -> dict[str, float]:
    """Scores by protocol and metric, such as 'imagenet-c/mCE'."""
    out = args.out or f'{cfg.work_dir}/protocols'
    given = evaluate.parse_args([args.config, '--protocols', *args.protocols, '--data', args.root, '--out', out])
    results = evaluate.report(given, lambda: [classifier_of(model_of(cfg), cfg, args.config, args.checkpoint)])
    return {f'{result.protocol}/{name}': score for result in results for name, score in result.scores.items()}


def save_predictions(cfg: Config, folder: str) -> None:
    """Makes the test write predictions to `folder`; mmseg's own metric would mix up images of the same name."""
    metrics = cfg.test_evaluator if isinstance(cfg.test_evaluator, list) else [cfg.test_evaluator]
    ours = [metric for metric in metrics if metric.type == 'DomainIoUMetric']
    if ours:
        ours[0].output_dir = folder
    else:
        cfg.test_evaluator = [*metrics, {'type': 'SavePredictions', 'output_dir': folder}]


def show(cfg: Config, folder: str) -> None:
    """Makes the test write overlays to `folder`, even if the config does not set up any visualisation."""
    hooks = cfg.get('default_hooks') or {}
    hook = {'type': 'SegVisualizationHook', **hooks.get('visualization', {}), 'draw': True}
    if hook['type'] == 'SegVisualizationHook':
        hook['type'] = 'OverlayHook'
    cfg.default_hooks = {**hooks, 'visualization': hook}
    own = {'type': 'SegLocalVisualizer', 'vis_backends': [{'type': 'LocalVisBackend'}]}
    visualizer = {**own, **(cfg.get('visualizer') or {}), 'save_dir': folder}
    visualizer.pop('name', None)  # by which mmengine would find the visualizer of another run in this process
    cfg.visualizer = visualizer


@command
def main(argv: list[str] | None = None) -> dict[str, float]:
    """Entry point; returns the metrics."""
    args = parse_args(argv)
    from timm_stylenorm.runner.stand_ins import UnreadHook
    from timm_stylenorm.runner.terminal import QuietRunner

    cfg = load_config(args)
    if args.protocols:
        return by_protocols(cfg, args)
    if args.data:
        other = data_config(args.data)
        require(other, args.data, 'test_evaluator')
        cfg.test_dataloader, cfg.test_evaluator = other.test_dataloader, other.test_evaluator
        merge_options(cfg, args.cfg_options)
    require(cfg, args.config, 'test_dataloader', 'test_evaluator', 'test_cfg')
    check_data(cfg.get('test_dataloader'), args.data or args.config)
    cfg.load_from, cfg.resume = args.checkpoint, False
    if 'ReportHook' not in {hook['type'] for hook in cfg.custom_hooks}:
        kind = 'ReportHook' if importlib.util.find_spec('mmseg') else 'UnreadHook'
        cfg.custom_hooks = [*cfg.custom_hooks, {'type': kind}]
    if args.out:
        save_predictions(cfg, args.out)
    if args.show_dir:
        show(cfg, args.show_dir)
    if args.tta:
        lacks = [key for key in ('tta_model', 'tta_pipeline') if not cfg.get(key)]
        if lacks:
            raise ValueError(f'--tta needs {" and ".join(lacks)}, which {args.config} does not have')
        cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline
        cfg.model = {**cfg.tta_model, 'module': cfg.model}
    runner = QuietRunner.from_cfg(cfg)
    metrics = runner.test()
    unread = next(hook.unread for hook in runner.hooks if isinstance(hook, UnreadHook))
    if unread:
        some = '; '.join(unread.values())
        raise ValueError(f'{len(unread)} images were not tested, and the results are those of all others: {some}')
    return metrics


if __name__ == '__main__':
    main()
