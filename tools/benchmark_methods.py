"""Every method on both embedded benchmarks: Fashion-MNIST and toy streets, mean and spread over seeds.

    python tools/benchmark_methods.py [--methods baseline snr ibn_a] [--seeds 0 1 2] [--jobs 2]

A comparison like `stylenorm compare`, with the methods' arguments from bench/arguments.py. Writes summary.md,
summary.json and summary.png into --work-dir. Seeds run one after the other, so that a stopped call leaves complete
columns behind.
"""

from bench.engine import Results, compare
from bench.presets import fashion_mnist, toy_streets
from bench.reports import publish_methods
from cli import COUNT
from compare import comparison_parser, parse_comparison
from mistakes import command

STUDIES = {'fashion_mnist': fashion_mnist, 'toy_streets': toy_streets}


@command
def main(argv: list[str] | None = None) -> Results:
    """Entry point; returns one result for every benchmark, method and seed."""
    own = comparison_parser(__doc__, 'work_dirs/methods')
    own.add_argument('--benchmarks', nargs='+', default=list(STUDIES), choices=STUDIES)
    own.add_argument('--fashion-mnist-iters', type=COUNT, default=600)
    own.add_argument('--toy-streets-iters', type=COUNT, default=240)
    args = parse_comparison(own, argv)
    studies = [STUDIES[name](args.methods, args.iters or vars(args)[f'{name}_iters']) for name in args.benchmarks]
    publish = publish_methods(studies, args.work_dir / 'summary')
    return compare(studies, args.seeds, args.work_dir, args.jobs, publish, keep=False)


if __name__ == '__main__':
    main()
