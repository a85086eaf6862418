"""Compares style methods on a config, shipped or your own: mean and standard deviation over seeds, by test domain.

    stylenorm compare CONFIG --methods baseline padain snr:reduction=8 --seeds 0 1 2

`baseline` is CONFIG unchanged; a method, with arguments after a colon, replaces its style; `adabn` is the baseline,
tested with batch norm statistics of the test images. Classification (`TopK`) and segmentation (`IoUMetric`,
`DomainIoUMetric`) are compared by domain if the test is a `MultiDomainDataset`, or if the config has a `seen_dataset`
beside its test set. Trainings run without validation, and their last checkpoint is tested.

Writes summary.md, summary.json and summary.png into WORK_DIR/CONFIG, with the time of training. A finished run is not
repeated while its config stays the same, and a killed one continues from its newest checkpoint; methods and seeds can
be added later. A run that fails is named at the end, with its log, and does not stop the others.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from bench.engine import Results, compare
from bench.reports import publish_comparison
from bench.rows import Row, Study, method_rows
from cli import COUNT, SEED, assignment
from mistakes import command


def comparison_parser(
    description: str | None, folder: str, methods: Sequence[str] | None = None
) -> argparse.ArgumentParser:
    """The argument parser that comparisons share; `folder` and `methods` are defaults, None means all methods."""
    own = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    text = f'default: {" ".join(methods or ["all"])}'
    own.add_argument('--methods', nargs='+', metavar='NAME[:K=V,...]', default=methods, help=text)
    own.add_argument('--seeds', nargs='+', type=SEED, default=[0, 1, 2])
    own.add_argument('--jobs', type=COUNT, default=2, help='runs at a time, one thread each (default: %(default)s)')
    own.add_argument('--iters', type=COUNT, help='training iterations (default: those of the config)')
    own.add_argument('--work-dir', type=Path, default=Path(folder), help='of single runs (default: %(default)s)')
    return own


def parse_comparison(own: argparse.ArgumentParser, argv: list[str] | None) -> argparse.Namespace:
    """Reads a command line; ends with a message if a name is not a method. Duplicates count once."""
    args = own.parse_args(argv)
    from bench.names import KNOWN

    from timm_stylenorm.errors import unknown

    args.methods, args.seeds = list(dict.fromkeys(args.methods or KNOWN)), list(dict.fromkeys(args.seeds))
    for name in (method.partition(':')[0] for method in args.methods):
        if name not in KNOWN:
            own.error(unknown('method', name, KNOWN, 'stylenorm methods'))
    return args


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    own = comparison_parser(__doc__, 'work_dirs/compare', ('baseline', 'padain', 'snr'))
    own.set_defaults(jobs=1)
    own.add_argument('config', help='path, or name below configs/')
    own.add_argument('--fine-tune', type=COUNT, metavar='ITERS', help='from the baseline, at a tenth of its rate')
    own.add_argument(
        '--seen', nargs='+', help="test domains of the kind trained on (default: the config's `seen_domains`)"
    )
    options = {'nargs': '+', 'action': 'extend', 'type': assignment, 'default': [], 'metavar': 'K=V'}
    own.add_argument('--cfg-options', **options, help='for all runs, e.g. train_cfg.max_epochs=10')
    own.add_argument('--discard-checkpoints', action='store_true', help='of finished runs')
    return parse_comparison(own, argv)


@command
def main(argv: list[str] | None = None) -> Results:
    """Entry point; returns one result for every method and seed."""
    args = parse_args(argv)
    from bench.plan import seen_domains, slug

    plain = Row(args.config, (), tuple(args.cfg_options), args.iters)
    rows = method_rows(plain, args.methods, {}, fine_tune=args.fine_tune)
    study = Study(Path(args.config).stem, rows, args.methods, seen_domains(plain, args.seen))
    publish = publish_comparison(study, args.work_dir / slug(study.title) / 'summary')
    return compare([study], args.seeds, args.work_dir, args.jobs, publish, keep=not args.discard_checkpoints)


if __name__ == '__main__':
    main()
