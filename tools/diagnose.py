"""Tells how much of a drop between two domains is style, and where: diagnose.py MODEL SOURCE TARGET [--out DIR].

Needs no training: at each site, the target's feature maps are given the source's channel statistics; the part of the
score that this recovers is what style methods could gain there. MODEL is as for evaluate.py: a name of timm, NAME=FILE
with weights of your own, or a config with its checkpoint, CONFIG.py=FILE, of a classifier or a segmentor. SOURCE and
TARGET are each

    a folder       images in folders of classes; without such folders, and for segmentors, they have no labels
    CONFIG.py      the test data of a config; CONFIG.py:DOMAIN one domain of it
    DOMAIN         one domain of the test data of MODEL's config

Unless both have labels, entropy and agreement of the predictions replace accuracy or mIoU. Writes diagnosis.json,
diagnosis.png and diagnosis.html.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from cli import COUNT, SEED, at_least, check_data, data_config, load_config, parser, require
from disk import claimed
from mistakes import command

if TYPE_CHECKING:
    from mmengine.config import Config
    from mmengine.runner import Runner
    from torch import nn

    from timm_stylenorm.evaluation import Diagnosis


class Part(NamedTuple):
    """The subject of a diagnosis: the network with the sites, both domains, how it predicts, and its name."""

    net: nn.Module
    source: Iterable
    target: Iterable
    predict: Callable | None
    name: str


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    own = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    own.add_argument('model', metavar='MODEL')
    own.add_argument('source', metavar='SOURCE', help='the domain that the model was trained on')
    own.add_argument('target', metavar='TARGET', help='the domain on which it is worse')
    own.add_argument('--sites', nargs='+', metavar='SITE', help='default: the input, the stem, the ends of the stages')
    own.add_argument('--limit', type=COUNT, default=256, help='images of each domain, spread evenly (default: 256)')
    own.add_argument('--out', type=Path, default=Path('work_dirs/diagnose'), help='default: work_dirs/diagnose')
    own.add_argument('--num-classes', type=COUNT, help='of a model of timm with weights of your own')
    own.add_argument('--mean', type=float, nargs='+', help='of each channel; default: as the model says')
    own.add_argument('--std', type=float, nargs='+')
    own.add_argument('--batch-size', type=COUNT, default=32)
    own.add_argument('--workers', type=at_least(int, 0), default=0)
    own.add_argument('--device', help='default: the GPU, if there is one')
    own.add_argument('--seed', type=SEED, default=0)
    return own.parse_args(argv)


def part_of(args: argparse.Namespace) -> Part:
    """The subject that a command line names: a classifier on two folders, or a model of a config on its data."""
    config = args.model.partition('=')[0]
    if Path(config).suffix != '.py':
        return with_folders(args)
    cfg = load_config(parser('').parse_args([config, '--work-dir', str(args.out)]))
    has_folders = all(Path(word).is_dir() for word in (args.source, args.target))
    return with_folders(args) if has_folders and 'backbone' not in cfg.model else with_config(args, cfg)


def with_folders(args: argparse.Namespace) -> Part:
    """A classifier on two folders.

    Raises:
        FileNotFoundError: A folder does not exist, or holds no image.
    """
    import torch
    from classifiers import build

    from timm_stylenorm.evaluation.engine import shown_by
    from timm_stylenorm.evaluation.folders import FolderDomain, class_names

    roots = [Path(args.source), Path(args.target)]
    for root in roots:
        if not root.is_dir():
            raise FileNotFoundError(
                f"no folder '{root}'; SOURCE and TARGET of a model of timm are folders, those of a config domains, too"
            )
    classes = class_names(roots)
    several = [class_names([root]) for root in roots]
    net, name, _ = build(args.model, args.num_classes)
    net.to(args.device or ('cuda' if torch.cuda.is_available() else 'cpu'))
    if classes and len(classes) > _outputs(net) >= max(map(len, several)):
        alone = ', '.join(sorted(set(several[0]) ^ set(several[1])))
        raise ValueError(f'{len(classes)} classes for {_outputs(net)} outputs: only one of the folders has {alone}')
    show = shown_by(net, args.mean, args.std)
    options = {'limit': args.limit, 'batch_size': args.batch_size, 'workers': args.workers}
    domains = [FolderDomain(root, show, classes, _outputs(net), **options) for root in roots]
    return Part(net, *domains, None, name)


def _outputs(net: nn.Module) -> int:
    return int(net.num_classes)


def with_config(args: argparse.Namespace, cfg: Config) -> Part:
    """A model of a config on two data sets.

    Raises:
        ValueError: There is no checkpoint or no such domain, or the model is of another kind.
    """
    from adabn import runner_of

    from timm_stylenorm.runner.answers import answers_of
    from timm_stylenorm.runner.model import bare_model

    config, _, file = args.model.partition('=')
    if not file:
        raise ValueError(f'{config} needs its checkpoint: {config}=work_dirs/.../iter_500.pth')
    require(cfg, config, 'test_dataloader', 'test_evaluator', 'test_cfg')
    chosen = [data_of(cfg, config, word) for word in (args.source, args.target)]
    cfg.test_dataloader = chosen[0][0].test_dataloader
    runner = runner_of(cfg, file, 'diagnose')
    loaders = [loader_of(runner, data, domain, args) for data, domain in chosen]
    runner.load_or_resume()
    model = bare_model(runner.model).eval()
    net = model.net if hasattr(model, 'net') else model.get_submodule(cfg.model.get('where', 'backbone'))
    return Part(net, *loaders, answers_of(model), f'{Path(config).stem} ({Path(file).name})')


def data_of(cfg: Config, config: str, word: str) -> tuple[Config, str | None]:
    """The config whose test data a word names, and the domain, or None for all of them."""
    from adabn import with_images

    path, _, domain = word.partition(':')
    if Path(word).is_dir():
        return with_images(cfg, word), None
    if Path(path).suffix != '.py':
        check_data(cfg.test_dataloader, config)
        return cfg, word
    other = data_config(path)
    check_data(other.test_dataloader, path)
    return other, domain or None


def loader_of(runner: Runner, data: Config, domain: str | None, args: argparse.Namespace) -> Iterable:
    """The images of a domain."""
    from timm_stylenorm.runner.answers import domain_loader

    given = {**data.test_dataloader, 'num_workers': args.workers, 'persistent_workers': False}
    return domain_loader(runner.build_dataloader(given), domain, args.limit)


def measured(part: Part, args: argparse.Namespace) -> Diagnosis:
    """Runs the diagnosis, with a progress bar."""
    from dataclasses import replace

    from tqdm import tqdm

    from timm_stylenorm.evaluation import diagnose
    from timm_stylenorm.evaluation.provenance import versions, weight_hash

    with tqdm(unit='run', disable=None) as bar:

        def tell(place: str, done: int, runs: int) -> None:
            bar.total, bar.n = runs, done
            bar.set_postfix_str(place)

        found = diagnose(
            part.net, part.source, part.target, sites=args.sites, predict=part.predict, seed=args.seed, progress=tell
        )
    told = {
        'model': part.name, 'source': args.source, 'target': args.target, 'limit': args.limit, 'seed': args.seed,
        'weight_hash': weight_hash(part.net), 'versions': versions(),
    }  # fmt: skip
    return replace(found, provenance=told)


@command
def main(argv: list[str] | None = None) -> Diagnosis:
    """Entry point; returns the diagnosis."""
    args = parse_args(argv)
    from timm_stylenorm.evaluation.diagnosis_report import told, write_diagnosis

    with claimed(args.out, 'this diagnosis', 'choose another --out'):
        found = measured(part_of(args), args)
        files = write_diagnosis(found, args.out)
    print(told(found))
    print(f'written: {", ".join(str(file) for file in files)}')
    return found


if __name__ == '__main__':
    main()
