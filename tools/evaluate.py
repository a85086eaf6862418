"""Measures the robustness of classifiers: evaluate.py MODEL... --protocols imagenet-c imagenet-r --data ROOT --out DIR.

MODEL is a name of timm, of this package too, whose weights are downloaded; `local-dir:FOLDER` or `hf-hub:NAME`;
NAME=FILE with weights of your own; or a config with its checkpoint, CONFIG.py=FILE. ROOT holds a folder for each
protocol, or is that of the only one; --list shows what lies in them. Several processes share the images:
python -m torch.distributed.run --nproc_per_node 2 tools/evaluate.py ...

Writes results.json, results.csv, results.md, a picture for each protocol and report.html. A call that was broken off
goes on where it was.
"""

from __future__ import annotations

import argparse
import os
import textwrap
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from cli import load_config, parser
from disk import claimed
from mistakes import command

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mmengine.config import Config
    from torch import nn

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


def check(args: argparse.Namespace) -> dict[str, Path]:
    """The folder of each protocol that was asked for.

    Raises:
        ValueError: No model or protocol, or an option out of range.
        FileNotFoundError: No folder of a protocol.
    """
    from timm_stylenorm.evaluation.protocols import get_protocol

    if not args.models or not args.protocols:
        raise ValueError('name at least one model and, behind --protocols, one protocol; --list shows them')
    for name, low in (('limit', 1), ('workers', 0), ('num_classes', 1)):
        value = getattr(args, name)
        if value is not None and value < low:
            raise ValueError(f'--{name.replace("_", "-")}: expected at least {low}, got {value}')
    if args.batch_size != 'auto' and not (args.batch_size.isdigit() and int(args.batch_size)):
        raise ValueError(f"--batch-size: a positive number or 'auto', got {args.batch_size!r}")
    rows = {name: get_protocol(name) for name in args.protocols}
    return {name: folder_of(row, name, Path(args.data), len(rows) == 1) for name, row in rows.items()}


def folder_of(row: Protocol, name: str, root: Path, only: bool) -> Path:
    """ROOT/<folder of the protocol>, or ROOT itself for the only protocol."""
    for folder in (row.folder, name, row.title):
        if (root / folder).is_dir():
            return root / folder
    if only and root.is_dir():
        return root
    raise FileNotFoundError(f"no folder '{root / row.folder}': {name} lies there as {row.layout}")


def build(name: str, num_classes: int | None) -> tuple[nn.Module, str, str]:
    """A model from its name on the command line, its name in tables, and where its weights are from.

    Raises:
        ValueError: timm has no such model, or the weights do not fit.
        FileNotFoundError: No such file.
    """
    import timm

    import timm_stylenorm  # noqa: F401 (registers the names with a style)
    from timm_stylenorm.errors import unknown
    from timm_stylenorm.models import default_cfgs

    base, _, file = name.partition('=')
    if Path(base).suffix == '.py':
        return of_config(base, file)
    plain = base.partition('.')[0]
    register(plain)
    if ':' not in base and not timm.is_model(plain):
        raise ValueError(unknown('timm model', base, timm.list_models(), 'timm.list_models()'))
    if file and num_classes is None:
        num_classes = classes_in(file, base)
    classes = {} if num_classes is None else {'num_classes': num_classes}
    if file:
        model = timm.create_model(base, **classes)
        load(model, file)
        return model, f'{base} ({Path(file).name})', f'checkpoint {file}'
    model = timm.create_model(base, pretrained=True, **classes)
    told = f'published as {base}'
    if plain in default_cfgs:
        told = f'those of the plain network ({base}): never trained with the style of its name'
    return model, base, told


def classes_in(file: str, name: str) -> int | None:
    """The outputs of the head that a file has for a model of timm; None where it has none by that name."""
    import timm

    from timm_stylenorm.checkpoints import read_state_dict

    head = getattr(timm.get_pretrained_cfg(name), 'classifier', None)
    head = head[0] if isinstance(head, tuple | list) else head
    state = read_state_dict(file)
    found = (state.get(f'{prefix}{head}.weight') for prefix in ('', 'net.', 'module.'))
    return next((len(weight) for weight in found if weight is not None), None)


def load(model: nn.Module, file: str) -> None:
    """All weights of a model from a file: timm's, the Runner's or a plain one.

    Raises:
        ValueError: It holds code or no weights, or does not fit.
    """
    from timm_stylenorm.checkpoints import read_state_dict
    from timm_stylenorm.surgery.weights import fitted

    state, fit = fitted(model, read_state_dict(file))
    if not fit:
        raise ValueError(f"'{file}' does not fit this {type(model).__name__}: {fit}")
    model.load_state_dict(state, strict=False)


def register(name: str) -> None:
    """Make a name of a model with a style known, where it is not one of those that are."""
    import timm

    from timm_stylenorm import register_variants
    from timm_stylenorm.methods import ROWS

    for method in ROWS:
        base = name.removesuffix(f'_{method}')
        if base != name and timm.is_model(base) and not timm.is_model(name):
            register_variants(base, [method])


def of_config(config: str, file: str) -> tuple[nn.Module, str, str]:
    """A classifier of a config with its checkpoint."""
    model, _ = built(config, file)
    if not hasattr(model, 'net'):
        raise ValueError(f'{config}: evaluate measures classifiers, and this is a {type(model).__name__}; see test.py')
    return classifier_of(model, config, file)


def built(config: str, file: str) -> tuple[nn.Module, Config]:
    """The model of a config whose checkpoint is named, without its weights, and the config."""
    cfg = load_config(parser('').parse_args([config]))
    from mmengine.registry import MODELS, init_default_scope

    init_default_scope(cfg.get('default_scope', 'mmengine'))
    if not file:
        raise ValueError(f'{config} needs its checkpoint: {config}=work_dirs/.../iter_500.pth')
    cfg.model.pop('init_checkpoint', None)
    if cfg.model.get('pretrained'):
        cfg.model.pretrained = False
    return MODELS.build(cfg.model), cfg


def classifier_of(model: nn.Module, config: str, file: str) -> tuple[nn.Module, str, str]:
    """The network within a classifier, with its checkpoint and the normalisation of its images."""
    load(model.net, file)
    shown = model.data_preprocessor
    config_of = {'mean': tuple(shown.mean.flatten().tolist()), 'std': tuple(shown.std.flatten().tolist())}
    model.net.pretrained_cfg = {**(getattr(model.net, 'pretrained_cfg', None) or {}), **config_of}
    return model.net, f'{Path(config).stem} ({Path(file).name})', f'checkpoint {file}'


def options_of(args: argparse.Namespace) -> tuple[Options, Running]:
    """What the engine takes."""
    import torch

    from timm_stylenorm.evaluation import Options, Running

    corruptions = None if args.corruptions is None else tuple(args.corruptions)
    device = args.device or (f'cuda:{os.environ.get("LOCAL_RANK", 0)}' if torch.cuda.is_available() else 'cpu')
    size = args.batch_size if args.batch_size == 'auto' else int(args.batch_size)
    running = Running(size, args.workers, device, args.amp, args.channels_last)
    return Options(args.subset, args.limit, args.seed, corruptions), running


def measure(args: argparse.Namespace, folders: dict[str, Path]) -> list[Result]:
    """All models by all protocols."""
    from tqdm import tqdm

    from timm_stylenorm.evaluation import evaluate

    options, running = options_of(args)
    clean = Path(args.clean) if args.clean else Path(args.data) / 'imagenet'
    results = []
    for word in args.models:
        model, name, weights = build(word, args.num_classes)
        for protocol, root in folders.items():
            with tqdm(desc=f'{name} {protocol}', unit='image', disable=None) as bar:

                def tell(part: str, done: int, total: int, bar: tqdm = bar) -> None:
                    bar.total, bar.n = total, done
                    bar.set_postfix_str(part)

                metrics = args.metrics
                result = evaluate(
                    model, protocol, root, name=name, weights=weights, metrics=metrics, bn=args.bn, mean=args.mean,
                    std=args.std, clean=clean if clean.is_dir() else None, options=options, running=running,
                    store=Path(args.out) / 'cells', progress=tell,
                )  # fmt: skip
            results.append(result)
    return results


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


@command
def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    args = parse_args(argv)
    if args.list:
        print(listing())
        return
    folders = check(args)
    import torch.distributed as dist
    from timm.utils import init_distributed_device

    from timm_stylenorm.evaluation.report import write_report

    if int(os.environ.get('WORLD_SIZE', 1)) > 1:
        init_distributed_device(argparse.Namespace(device=args.device or 'cuda', dist_backend=None, dist_url=None))
    first = not dist.is_initialized() or dist.get_rank() == 0
    with claimed(args.out, 'this measurement', 'choose another --out') if first else nullcontext():
        results = measure(args, folders)
    if first:
        files = write_report(results, Path(args.out))
        print(told(results))
        print(f'written: {", ".join(str(file) for file in files)}')
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == '__main__':
    main()
