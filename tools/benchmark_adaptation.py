"""Adaptation on drawn streets: source only, AdaBN, MaxSquare, FADA, and pAdaIN with FADA; mIoU on the target.

    python tools/benchmark_adaptation.py [--seeds 0 1 2] [--iters 240] [--jobs 2] [--work-dir work_dirs/adaptation]

Every seed trains a chain: the source-only segmentors, with and without pAdaIN, and then, starting from them and half as
long, the adapted ones, which see the target's training images without labels. Each is tested on the target's validation
images, both unchanged and with batch norm statistics of those images (AdaBN). Writes summary.json, summary.md,
summary.png and pictures.png (predictions of the first seed) into --work-dir, as `stylenorm compare` does.
"""

from bench.engine import Results, compare
from bench.presets import adaptation
from bench.reports import publish_adaptation
from compare import comparison_parser, parse_comparison
from mistakes import command


@command
def main(argv: list[str] | None = None) -> Results:
    """Entry point; returns one result for every row and seed."""
    own = comparison_parser(__doc__, 'work_dirs/adaptation', ['baseline'])
    own.set_defaults(iters=240)
    args = parse_comparison(own, argv)
    study = adaptation(args.iters)
    return compare([study], args.seeds, args.work_dir, args.jobs, publish_adaptation(study, args.work_dir))


if __name__ == '__main__':
    main()
