"""The whole chain on drawn streets: train on a game domain, look at another one, with and without style methods.

    python tools/demo.py [--seeds 0 1 2] [--methods baseline padain snr] [--iters 240] [--out work_dirs/demo]

Draws the data, trains every method with the same seeds, measures mIoU on the held-out part of the game domain (seen)
and on the domain that no training saw (unseen), and writes results.json, results.md and demo.png into --out. Methods
have their default arguments, except as bench/arguments.py says. It is a comparison like `stylenorm compare`. The data
stand in for GTA5 and Cityscapes; the results say nothing about those.
"""

from pathlib import Path

from bench.engine import Results, compare
from bench.presets import STREETS, toy_streets
from bench.reports import publish_demo
from compare import comparison_parser, parse_comparison
from mistakes import command


@command
def main(argv: list[str] | None = None) -> Results:
    """Entry point; returns one result for every method and seed."""
    own = comparison_parser(__doc__, 'work_dirs/demo', ('baseline', 'padain', 'snr'))
    own.set_defaults(seeds=[0])
    own.add_argument('--out', dest='work_dir', type=Path, help='the same as --work-dir')
    own.add_argument('--data', type=Path, default=STREETS)
    args = parse_comparison(own, argv)
    study = toy_streets(args.methods, args.iters, args.data, predictions=True)
    return compare([study], args.seeds, args.work_dir, args.jobs, publish_demo(study, args.work_dir, args.data))


if __name__ == '__main__':
    main()
