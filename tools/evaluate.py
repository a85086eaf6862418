"""Measures the robustness of classifiers: evaluate.py MODEL... --protocols imagenet-c imagenet-r --data ROOT --out DIR.

MODEL is a model name of timm or of this package, whose weights are downloaded; `local-dir:FOLDER` or `hf-hub:NAME`;
NAME=FILE with weights of your own; or a config with its checkpoint, CONFIG.py=FILE. ROOT holds a folder for each
protocol or, for a single one, is its folder; --list shows what these folders contain. --root imagenet=PLACE says where
the images of one protocol are: its folder or, if it has folders of classes, a .tar file, hfds/NAME:SPLIT or
wds/FOLDER:SPLIT. Several processes share the images:
python -m torch.distributed.run --nproc_per_node 2 tools/evaluate.py ...

Writes results.json, results.csv, results.md, a picture for each protocol and report.html. An interrupted call
continues where it stopped.
"""

from __future__ import annotations

import argparse
import os
import textwrap
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from classifiers import build
from cli import assignment
from disk import claimed
from mistakes import command

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from classifiers import Named

    from timm_stylenorm.evaluation import Options, Protocol, Result, Running


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    own = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    own.add_argument(
        'models', nargs='*', metavar='MODEL', help='such as resnet50.tv_in1k, resnet50=weights.safetensors'
    )
    own.add_argument('--protocols', nargs='+', default=[], metavar='NAME')
    own.add_argument('--list', action='store_true', help='list the protocols, and leave')
    own.add_argument('--data', default='data', metavar='ROOT', help='default: data')
    where = {'nargs': '+', 'action': 'extend', 'type': assignment, 'default': [], 'metavar': 'PROTOCOL=PLACE'}
    own.add_argument('--root', **where, help='the place of a protocol, in place of that in ROOT')
    own.add_argument('--out', default='work_dirs/evaluate', metavar='DIR', help='default: work_dirs/evaluate')
    own.add_argument('--clean', metavar='DIR', help='the clean ImageNet validation images; default: ROOT/imagenet')
    own.add_argument('--metrics', nargs='+', metavar='NAME', help='those that are wanted; default: all of a protocol')
    own.add_argument('--num-classes', type=int, help='of a model with weights of your own; default: as the file says')
    own.add_argument('--bn', default='clean', choices=('clean', 'adversarial'), help='which of dual batch norms')
    own.add_argument('--corruptions', nargs='+', metavar='NAME', help='only these')
    own.add_argument('--subset', help='robustbench: its 5,000 images')
    own.add_argument('--limit', type=int, help='at most so many images of each part')
    own.add_argument('--seed', type=int, default=0)
    own.add_argument('--mean', type=float, nargs='+', help='of each channel; default: as the model says')
    own.add_argument('--std', type=float, nargs='+')
    own.add_argument('--batch-size', default='64', help="a number, or 'auto'; default: 64")
    own.add_argument('--workers', type=int, default=2)
    own.add_argument('--device', help='default: the GPU, if there is one')
    own.add_argument('--amp', action='store_true')
    own.add_argument('--channels-last', action='store_true')
    return own.parse_args(argv)


def check(args: argparse.Namespace) -> dict[str, str | Path]:
    """The place of the images of each requested protocol.

    Raises:
        ValueError: There is no model or protocol, or an option is out of range.
        FileNotFoundError: The folder of a protocol is missing.
    """
    from timm_stylenorm.errors import unknown
    from timm_stylenorm.evaluation.protocols import get_protocol

    if not args.models or not args.protocols:
        raise ValueError('name at least one model and, after --protocols, one protocol; --list shows them')
    for name, low in (('limit', 1), ('workers', 0), ('num_classes', 1)):
        value = getattr(args, name)
        if value is not None and value < low:
            raise ValueError(f'--{name.replace("_", "-")}: expected at least {low}, got {value}')
    if args.batch_size != 'auto' and not (args.batch_size.isdigit() and int(args.batch_size)):
        raise ValueError(f"--batch-size: a positive number or 'auto', got {args.batch_size!r}")
    rows, given = {name: get_protocol(name) for name in args.protocols}, roots(args)
    for metric in args.metrics or ():
        if not any(metric in row.metrics for row in rows.values()):
            raise ValueError(unknown('metric', metric, sorted({name for row in rows.values() for name in row.metrics})))
    for option in ('subset', 'corruptions'):
        if getattr(args, option) is not None and not any(option in row.takes for row in rows.values()):
            raise ValueError(f'--{option}: nothing to choose in {", ".join(rows)}')
    for name in given:
        if name not in (*rows, 'imagenet'):
            raise ValueError(unknown('protocol of --root', name, rows))
    return {name: given.get(name) or folder_of(row, name, args.data, len(rows) == 1) for name, row in rows.items()}


def roots(args: argparse.Namespace) -> dict[str, str]:
    """The places given with --root, by protocol.

    Raises:
        FileNotFoundError: One of them does not exist.
    """
    from timm_stylenorm.evaluation.readers import place_of

    found = dict(text.split('=', 1) for text in args.root)
    for name, text in found.items():
        place = place_of(text)
        if isinstance(place, Path) and not place.exists():
            raise FileNotFoundError(f"--root {name}={text}: no folder or file '{text}'")
    return found


def folder_of(row: Protocol, name: str, data: str, only: bool) -> str | Path:
    """ROOT/<folder of the protocol>; for a single protocol it may be ROOT itself."""
    from timm_stylenorm.evaluation.readers import place_of

    root = place_of(data)
    if not isinstance(root, Path):
        if only:
            return data
        raise ValueError(f'--data {data} is the place of one protocol; --root {name}=PLACE gives each its own')
    for folder in (row.folder, name, row.title):
        if (root / folder).is_dir():
            return root / folder
    if only and root.exists():
        return root
    raise FileNotFoundError(f"no folder '{root / row.folder}': {name} lies there as {row.layout}")


def options_of(args: argparse.Namespace) -> tuple[Options, Running]:
    """The options for the engine."""
    import torch

    from timm_stylenorm.evaluation import Options, Running

    corruptions = None if args.corruptions is None else tuple(args.corruptions)
    device = args.device or (f'cuda:{os.environ.get("LOCAL_RANK", 0)}' if torch.cuda.is_available() else 'cpu')
    size = args.batch_size if args.batch_size == 'auto' else int(args.batch_size)
    running = Running(size, args.workers, device, args.amp, args.channels_last)
    return Options(args.subset, args.limit, args.seed, corruptions), running


def measure(args: argparse.Namespace, places: dict[str, str | Path], models: Iterable[Named]) -> list[Result]:
    """The results of all models on all protocols."""
    from tqdm import tqdm

    from timm_stylenorm.evaluation import evaluate
    from timm_stylenorm.evaluation.protocols import get_protocol

    options, running = options_of(args)
    clean = clean_images(args, places)
    results = []
    for model, name, weights in models:
        for protocol, root in places.items():
            with tqdm(desc=f'{name} {protocol}', unit='image', disable=None) as bar:

                def tell(part: str, done: int, total: int, bar: tqdm = bar) -> None:
                    bar.total, bar.n = total, done
                    bar.set_postfix_str(part)

                row = get_protocol(protocol)
                metrics = args.metrics and [metric for metric in args.metrics if metric in row.metrics]
                result = evaluate(
                    model, protocol, root, name=name, weights=weights, metrics=metrics or None, bn=args.bn,
                    mean=args.mean, std=args.std, clean=clean, options=options.of(row.takes), running=running,
                    store=Path(args.out) / 'cells', progress=tell,
                )  # fmt: skip
            results.append(result)
    return results


def clean_images(args: argparse.Namespace, places: dict[str, str | Path]) -> str | Path | None:
    """The place of the clean ImageNet images, if a score needs them; a default place without them is passed over."""
    from timm_stylenorm.evaluation.cells import plain
    from timm_stylenorm.evaluation.options import Options
    from timm_stylenorm.evaluation.protocols import get_protocol
    from timm_stylenorm.evaluation.scores import NEED_CLEAN

    given, default = args.clean or roots(args).get('imagenet'), Path(args.data) / 'imagenet'
    if given or not any(NEED_CLEAN.intersection(get_protocol(name).metrics) for name in places):
        return given
    try:
        plain(default, Options())
    except FileNotFoundError:
        return None
    return default


def told(results: Sequence[Result]) -> str:
    """A line for each result."""
    lines = []
    for result in results:
        scores = ', '.join(f'{name} {value:.2f}' for name, value in result.scores.items())
        lines.append(f'{result.provenance["model"]}, {result.protocol}: {scores}')
    return '\n'.join(lines)


def listing() -> str:
    """The table of protocols."""
    from timm_stylenorm.evaluation import PROTOCOLS

    lines = []
    for name, row in PROTOCOLS.items():
        lines += [f'{name:20} {row.title}; {", ".join(row.metrics)}']
        lines += textwrap.wrap(f'{row.layout}. {row.note}', 96, initial_indent=' ' * 21, subsequent_indent=' ' * 21)
    return '\n'.join(lines)


def report(args: argparse.Namespace, models: Callable[[], Iterable[Named]]) -> list[Result]:
    """Checks the arguments, builds and measures the models, and writes the files of a report."""
    places = check(args)
    import torch.distributed as dist
    from timm.utils import init_distributed_device

    from timm_stylenorm.evaluation.report import write_report

    if int(os.environ.get('WORLD_SIZE', 1)) > 1:
        init_distributed_device(argparse.Namespace(device=args.device or 'cuda', dist_backend=None, dist_url=None))
    first = not dist.is_initialized() or dist.get_rank() == 0
    with claimed(args.out, 'this measurement', 'choose another --out') if first else nullcontext():
        results = measure(args, places, models())
    if first:
        files = write_report(results, Path(args.out))
        print(told(results))
        print(f'written: {", ".join(str(file) for file in files)}')
    if dist.is_initialized():
        dist.destroy_process_group()
    return results


@command
def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    args = parse_args(argv)
    if args.list:
        print(listing())
        return
    report(args, lambda: (build(word, args.num_classes) for word in args.models))


if __name__ == '__main__':
    main()
