"""Shared code of the tools' command lines: arguments, configs, and clear messages about missing data.

Hosts are imported only when needed, so that converters and --help start without them.
"""

import argparse
import difflib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from labels.pairs import cpu_count

if TYPE_CHECKING:
    from mmengine.config import Config

EXAMPLE = 'quickstart/deeplabv3plus_r18-small_1xb8-240_toy-streets.py'
SOURCES = {  # part of a data folder's name: how to get it
    'pseudo_labels': 'python tools/make_pseudo_labels.py CONFIG CHECKPOINT FOLDER, as the head of the config says',
    'toy_streets': 'python tools/prepare_toy_streets.py data/toy_streets',
    'gta5': 'unpack images/ and labels/ there, then python tools/prepare_gta5.py data/gta5',
    'cityscapes': 'unpack leftImg8bit/ and gtFine/ there, then python tools/prepare_cityscapes.py data/cityscapes',
    'synthia': 'unpack SYNTHIA-RAND-CITYSCAPES there, then python tools/prepare_synthia.py data/synthia',
    'nthu': 'unpack Images/ and Labels/ of each city there, then python tools/prepare_nthu.py data/nthu/CITY',
    'bdd100k': 'unpack its 10k images and its labels for semantic segmentation there, see docs/datasets.md',
    'mapillary': 'unpack Mapillary Vistas there, then python tools/prepare_mapillary.py data/mapillary',
    'acdc': 'unpack rgb_anon_trainvaltest.zip and gt_trainval.zip there',
    'dark_zurich': 'unpack Dark_Zurich_val_anon.zip there',
    'night_driving': 'unpack NighttimeDrivingTest.zip there',
    'fashion-mnist': 'apt-get install dataset-fashion-mnist',
    'imagenet': 'put train/CLASS/*.JPEG and val/CLASS/*.JPEG there',
    'pacs': 'put DOMAIN/CLASS/*.jpg there',
}


def at_least(kind: type, low: float, most: float = sys.float_info.max) -> Callable[[str], float]:
    """A function for `type=` of an argument: takes finite numbers that are not below `low`."""
    return partial(_number, kind, low, most)


def _number(kind: type, low: float, most: float, text: str) -> float:
    try:
        value = kind(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f'expected a number, got {text!r}') from None
    if not low <= value <= most:
        limit = f'at most {most}' if value > most else f'at least {low}'
        raise argparse.ArgumentTypeError(f'expected {limit}, got {text}')
    return value


COUNT = at_least(int, 1)
SEED = at_least(int, 0, 2**32 - 1)  # the range that numpy accepts


def assignment(text: str) -> str:
    """KEY=VALUE, unchanged."""
    key, sign, _ = text.partition('=')
    if not (key.strip() and sign):
        raise argparse.ArgumentTypeError(f'expected KEY=VALUE, got {text!r}')
    return text


def parser(description: str) -> argparse.ArgumentParser:
    """The argument parser of a tool that takes a config."""
    raw = argparse.RawDescriptionHelpFormatter  # keeps the example in one piece
    own = argparse.ArgumentParser(
        description=description, epilog=f'For example {EXAMPLE} --style snr', formatter_class=raw
    )
    own.add_argument('config', help='path, or name below configs/')
    own.add_argument('--work-dir', help='of logs and checkpoints (default: work_dirs/CONFIG or work_dirs/CONFIG_STYLE)')
    own.add_argument(
        '--style', nargs='+', action='append', default=[], metavar=('NAME', 'KEY=VALUE'),
        help='after the config: a style method for its model, arguments of it and `sites`; may be repeated',
    )  # fmt: skip
    own.add_argument('--recipe', nargs='+', metavar=('NAME', 'KEY=VALUE'), help='a training recipe for the model')
    options = {'nargs': '+', 'action': 'extend', 'type': assignment, 'default': [], 'metavar': 'K=V'}
    own.add_argument('--cfg-options', **options, help='e.g. train_cfg.max_iters=100')
    own.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    own.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)
    return own


def converter_parser(description: str) -> argparse.ArgumentParser:
    """The argument parser of a converter."""
    own = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    own.add_argument('data_root', type=Path)
    own.add_argument('--out', type=Path, help='folder for labels, report and lists (default: data_root)')
    own.add_argument('--workers', type=COUNT, default=cpu_count(), help='processes (default: one per CPU)')
    own.add_argument('--skip-bad', action='store_true', help='write splits/good.txt without them, exit with 0')
    own.add_argument('--overwrite', action='store_true', help='convert again what is converted already')
    return own


def network_arguments(own: argparse.ArgumentParser) -> None:
    """Adds MODEL and the options of its image loading, as `networks.networks` expects them."""
    known = 'as of `stylenorm evaluate`: resnet50.tv_in1k, resnet50_snr=weights.pth, CONFIG.py=CHECKPOINT'
    own.add_argument('models', nargs='+', metavar='MODEL', help=known)
    own.add_argument('--names', nargs='+', help='of the models in figures; default: what MODEL says')
    own.add_argument('--num-classes', type=COUNT, help='of a model with weights of your own; default: as the file says')
    own.add_argument('--mean', type=float, nargs=3, help='of each channel; default: as the model says')
    own.add_argument('--std', type=float, nargs=3)
    own.add_argument('--image-size', type=COUNT, metavar='N', help='of segmentors: the shorter side becomes N pixels')
    own.add_argument('--device', help='default: the GPU, if there is one')


def picture_parser(description: str | None) -> argparse.ArgumentParser:
    """The argument parser that the picture tools share."""
    own = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    own.add_argument('images', type=Path, help='folder of images, and of folders of images')
    own.add_argument(
        '--model', default='resnet50', help='classifier, a name of timm, with a style too (default: %(default)s)'
    )
    own.add_argument('--checkpoint', help="its weights with timm's or the Runner's keys (default: timm downloads them)")
    own.add_argument('--mean', type=float, nargs=3, help="normalisation of its images (default: as timm's)")
    own.add_argument('--std', type=float, nargs=3)
    own.add_argument('--image-size', type=COUNT, default=224, help='images are scaled and cropped to it')
    own.add_argument('--styliser-encoder', metavar='FILE', help='vgg_normalised.pth: maps of VGG-19 (relu4_1)')
    own.add_argument('--styliser-decoder', metavar='FILE', help='decoder.pth: no decoder is trained')
    own.add_argument(
        '--decoder-steps', type=COUNT, default=600, help='training steps of each decoder (default: %(default)s)'
    )
    own.add_argument('--seed', type=SEED, default=0)
    return own


def parse_pictures(own: argparse.ArgumentParser, argv: list[str] | None) -> argparse.Namespace:
    """Reads a command line."""
    args = own.parse_args(argv)
    if (args.styliser_encoder is None) != (args.styliser_decoder is None):
        own.error('--styliser-encoder and --styliser-decoder go together')
    return args


def load_config(args: argparse.Namespace) -> 'Config':
    """Reads the config and adapts it to this machine."""
    from timm_stylenorm.options import read_recipe, read_style, slug
    from timm_stylenorm.runner.configs import find_config
    from timm_stylenorm.runner.distributed import prepare_cpu_distributed
    from timm_stylenorm.runner.restyle import put_style
    from timm_stylenorm.runner.terminal import each_line_once

    if args.launcher == 'pytorch' and 'RANK' not in os.environ:
        raise ValueError('--launcher pytorch is for processes that torchrun starts, as `bash tools/dist_train.sh` does')
    if importlib.util.find_spec('mmseg'):
        with each_line_once():
            import mmseg_stylenorm  # noqa: F401 (registers the segmentation side)
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    path = find_config(args.config)
    cfg = read_config(path)
    merge_options(cfg, args.cfg_options)
    require(cfg, args.config, 'model')
    style, recipe = read_style(args.style), read_recipe(args.recipe)  # also of methods that the config imports
    put_style(cfg, style, recipe)
    cfg.launcher = args.launcher
    cfg.work_dir = args.work_dir or _work_dir(cfg, path, slug(style, recipe))
    hooks = list(cfg.get('custom_hooks') or [])
    hooks += [
        {'type': name} for name in ('RNGStateHook', 'CheckpointGuardHook') if name not in {h['type'] for h in hooks}
    ]
    cfg.custom_hooks = hooks
    prepare_cpu_distributed(cfg, args.launcher)
    return cfg


def read_config(path: str | Path) -> 'Config':
    """A config with its base configs.

    Raises:
        ValueError: running the config raises an error; the message names the file.
    """
    from mmengine.config import Config

    of_python = (SyntaxError, NameError, AttributeError, TypeError, ValueError, LookupError, ArithmeticError)
    of_mmengine = (AssertionError, ImportError, OSError, RuntimeError)
    try:
        return Config.fromfile(path)
    except (*of_python, *of_mmengine) as error:
        raise ValueError(f'cannot read the config {path}: {type(error).__name__}: {error}') from error


def data_config(name: str) -> 'Config':
    """The config whose test data are wanted, by its path or its name below configs/, also `_base_/datasets/`.

    Raises:
        ValueError: the config cannot be read, or has no test data.
    """
    from timm_stylenorm.runner.configs import config_root

    cfg = read_config(name if Path(name).is_file() else config_root() / name)
    require(cfg, name, 'test_dataloader')
    return cfg


def require(cfg: 'Config', config: str, *keys: str) -> None:
    """Raises a ValueError if a config lacks keys that a tool needs."""
    lacks = [key for key in keys if cfg.get(key) is None]
    if lacks:
        raise ValueError(f'{config} has no {" and no ".join(lacks)}')


def merge_options(cfg: 'Config', options: list[str]) -> None:
    """Merges --cfg-options into a config.

    Raises:
        ValueError: a value has unbalanced brackets, or a key leads through a value that has no keys.
    """
    from mmengine.config import DictAction

    own = argparse.ArgumentParser()
    own.add_argument('--options', nargs='*', action=DictAction, default={})
    for option in options:
        try:
            cfg.merge_from_dict(own.parse_args(['--options', option]).options)
        except (LookupError, TypeError, ValueError, AttributeError, AssertionError) as error:
            raise ValueError(f'--cfg-options {option}: {error.args[0] if error.args else error}') from error


def _work_dir(cfg: 'Config', path: str, name: str) -> str:
    """The config's work dir followed by the name of the style, so that no two styles share one."""
    folder: str = cfg.get('work_dir') or f'work_dirs/{Path(path).stem}'
    return folder if not name or folder.endswith(f'_{name}') else f'{folder.rstrip("/")}_{name}'


def check_data(loader: dict | None, config: str) -> None:
    """Stops early if a folder of a data loader, or the archive in its place, does not exist.

    Raises:
        FileNotFoundError: names the folder, the nearest existing one, and how to get the data.
    """
    for part in data_parts((loader or {}).get('dataset') or {}):
        if part.get('download'):
            continue
        root = part.get('data_root') or part.get('root') or ''
        prefixes = [p for p in (part.get('data_prefix') or {}).values() if isinstance(p, str)]
        for folder in [root, *(os.path.join(root, prefix) for prefix in prefixes)]:
            if folder and '://' not in folder and not os.path.exists(folder):
                raise FileNotFoundError(_lacking(folder, config))


def domains_of(dataset: dict) -> list[dict]:
    """The data sets that a `MultiDomainDataset` will use; it rejects unknown names itself."""
    if dataset.get('datasets') is not None:
        return dataset['datasets']
    domains, only = dataset.get('domains') or {}, dataset.get('only')
    chosen = domains if only is None else [only] if isinstance(only, str) else only
    return [domains[name] for name in chosen if name in domains and name != '_scope_']


CONTAINERS: dict[str, Callable[[dict], Iterable[dict]]] = {  # by type, since keys mean other things elsewhere
    **dict.fromkeys(('MultiDomainDataset', 'DomainConcatDataset', 'JoinedDataset'), domains_of),
    'UDADataset': lambda dataset: [dataset['source'], dataset['target']],
    'ConcatDataset': lambda dataset: dataset['datasets'],
    **dict.fromkeys(
        ('RepeatDataset', 'ClassBalancedDataset', 'MultiImageMixDataset', 'RareClassDataset'),
        lambda dataset: [dataset['dataset']],
    ),
}


def kind_of(cfg: dict) -> str:
    """The name of a config's `type` without its scope; '' if it has none."""
    kind = cfg.get('type', '')
    return kind.rpartition('.')[2] if isinstance(kind, str) else kind.__name__


def data_parts(dataset: dict) -> Iterator[dict]:
    """The configs of the data sets that read files, inside those that only combine others."""
    inner = CONTAINERS.get(kind_of(dataset))
    if inner is None:
        yield dataset
        return
    for part in inner(dataset):
        yield from data_parts(part)


def tested_parts(cfg: 'Config') -> Iterator[dict]:
    """The `data_parts` of a config's test; none if it has no test data."""
    dataset = (cfg.get('test_dataloader') or {}).get('dataset')
    if dataset:
        yield from data_parts(dataset)


def _lacking(folder: str, config: str) -> str:
    parent = os.path.dirname(folder.rstrip('/')) or '.'
    siblings = sorted(e.name for e in os.scandir(parent) if e.is_dir()) if os.path.isdir(parent) else []
    near = difflib.get_close_matches(os.path.basename(folder.rstrip('/')), siblings, n=1)
    there = f' ({parent} holds: {", ".join(siblings) or "nothing"})' if os.path.isdir(parent) else ''
    hint = f'; did you mean {os.path.join(parent, near[0])!r}?' if near else '.'
    known = [how for name, how in SOURCES.items() if name in folder]
    how = known[0] if known else 'see docs/datasets.md'
    return f'{config} reads its data from {folder!r}, which does not exist{there}{hint} To get it: {how}.'
