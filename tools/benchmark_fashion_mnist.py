"""Fashion-MNIST, clean and in other styles: accuracy of each method, mean and spread over seeds.

    python tools/benchmark_fashion_mnist.py --methods baseline padain padain:p=0.1 snr --seeds 0 1 2
    python tools/benchmark_fashion_mnist.py --fine-tune 300 --methods baseline advbn:lower=frozen,steps=6,step=0.2

A comparison like `stylenorm compare`, with the methods' arguments from bench/arguments.py. Prints a Markdown table, and
writes OUT.md, OUT.json and OUT.png.
"""

from pathlib import Path

from bench.engine import Results, compare
from bench.presets import fashion_mnist
from bench.reports import publish_styles
from cli import COUNT
from compare import comparison_parser, parse_comparison
from mistakes import command


@command
def main(argv: list[str] | None = None) -> Results:
    """Entry point; returns one result for every method and seed."""
    own = comparison_parser(__doc__, 'work_dirs/fashion_mnist')
    own.add_argument('--fine-tune', type=COUNT, metavar='ITERS', help='from the baseline, at a tenth of its rate')
    own.add_argument('--data', help='folder of the idx files; default: as in the config')
    own.add_argument('--limit', type=COUNT, help='use at most this many images of each set')
    own.add_argument('--out', type=Path, help='OUT.md, OUT.json, OUT.png (default: summary in the work dir)')
    args = parse_comparison(own, argv)
    study = fashion_mnist(args.methods, args.iters, args.fine_tune, args.data, args.limit)
    publish = publish_styles(study, args.out or args.work_dir / 'summary')
    return compare([study], args.seeds, args.work_dir, args.jobs, publish, keep=False)


if __name__ == '__main__':
    main()
