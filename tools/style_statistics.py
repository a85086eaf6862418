"""Draws the style of domains inside networks: stylenorm style-statistics MODEL... --domains data/pacs/* --out DIR

    style.png        mean and deviation of each channel at a site, an image a point, in two dimensions (t-SNE or PCA),
                     as in the figures of MixStyle (arXiv:2104.02008) and DSU (arXiv:2202.03958)
    norms.png        how the norms over the channels at positions are distributed, as in domain norm's figure
                     (arXiv:1911.13287)
    probe.png        how well a linear probe tells the domains apart, layer by layer, as AdaBN's authors ask
                     (arXiv:1603.04779)
    statistics.json  the accuracies of the probe, and what was measured

If a site has a style layer, style.png and norms.png have one row before and one after the layer. Methods that act in
training act here only with --acting. MODEL is as for `stylenorm explain`. A domain is a folder of images, named by
NAME=FOLDER or by the folder's name; a config (PATH.py) stands for the domains of its test set.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from cli import COUNT, SEED, network_arguments
from disk import claimed
from mistakes import command

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import numpy as np
    from figures.style import Measured
    from networks import Network
    from torch import Tensor

    from timm_stylenorm.evaluation.statistics import SiteStatistics


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    own = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    network_arguments(own)
    own.add_argument('--domains', nargs='+', required=True, metavar='DOMAIN', help='FOLDER, NAME=FOLDER, or CONFIG.py')
    own.add_argument('--sites', nargs='+', help='see `stylenorm sites MODEL`; default: the first and the last stage')
    own.add_argument('--layers', nargs='+', help='of the probe, sites too; default: batch_norms, or all stages')
    own.add_argument('--limit', type=COUNT, default=100, help='images of each domain, evenly chosen; default: 100')
    own.add_argument(
        '--pool', type=COUNT, default=1, metavar='N',
        help='probe the statistics of batches of N images of one domain, which batch norm sees; default: of each image',
    )  # fmt: skip
    own.add_argument('--acting', action='store_true', help='style layers act as in training, on batches of all domains')
    own.add_argument('--projection', choices=('tsne', 'pca'), default='tsne', help='default: tsne')
    own.add_argument('--batch-size', type=COUNT, default=32)
    own.add_argument('--seed', type=SEED, default=0)
    own.add_argument('--out', type=Path, default=Path('style_statistics'), metavar='DIR')
    return own.parse_args(argv)


def domains_of(words: Sequence[str], limit: int, pool: int) -> dict[str, list[Path]]:
    """The images of each domain.

    Raises:
        FileNotFoundError: A folder does not exist, or holds no image.
        ValueError: There is only one domain, two have the same name, or one has fewer than two batches of `pool`
            images.
    """
    from figures.pictures import evenly, image_files

    found: dict[str, list[Path]] = {}
    for word in words:
        if Path(word).suffix == '.py' and not Path(word).is_dir():
            parts = of_config(word)
        else:
            name, sign, folder = word.partition('=')
            folder = folder if sign else word
            parts = {name if sign else Path(folder).resolve().name: image_files(Path(folder))}
        for name, files in parts.items():
            if name in found:
                raise ValueError(f'--domains: two are called {name!r}; give names, NAME=FOLDER')
            found[name] = [files[i] for i in evenly(limit, len(files))]
    if len(found) < 2:
        raise ValueError(f'--domains: expected two or more, got {", ".join(found)}')
    for name, files in found.items():
        if len(files) < 2 * pool:
            raise ValueError(
                f'a probe needs two batches of {pool} of each domain, and {name!r} has {len(files)} images'
            )
    return found


def of_config(config: str) -> dict[str, list[Path]]:
    """The images of each domain of a config's test set."""
    from cli import check_data, load_config, parser, require
    from mmengine.registry import DATASETS, init_default_scope

    cfg = load_config(parser('').parse_args([config]))
    require(cfg, config, 'test_dataloader')
    check_data(cfg.test_dataloader, config)
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    images = DATASETS.build(cfg.test_dataloader.dataset)
    if not hasattr(images, 'image_of'):
        raise ValueError(f'{config}: the test set, a {type(images).__name__}, does not name its images; name folders')
    found: dict[str, list[Path]] = {}
    for i in range(len(images)):
        found.setdefault(images.domain_of(i), []).append(Path(images.image_of(i)))
    for name, files in found.items():
        if not files[0].is_file():
            raise ValueError(f'{config}: the images of {name} are no files; name folders')
    return found


def batches(network: Network, files: Sequence[Path], size: int) -> Iterator[Tensor]:
    """Normalised images, at most `size` at once and all of one shape, in order."""
    import torch

    kept: list[Tensor] = []
    for file in files:
        image = network.read(file)
        if kept and (len(kept) == size or image.shape != kept[0].shape):
            yield network.inputs(torch.stack(kept))
            kept = []
        kept.append(image)
    yield network.inputs(torch.stack(kept))


def statistics_of(
    network: Network, images: Sequence[tuple[str, Path]], sites: Sequence[str], args: argparse.Namespace
) -> dict[str, SiteStatistics]:
    """Statistics of all images, in order."""
    import torch
    from tqdm import tqdm

    from timm_stylenorm.evaluation.statistics import collect_statistics

    torch.manual_seed(args.seed)
    files = tqdm([file for _, file in images], desc=network.name, unit='image', leave=False, disable=None)
    shown = batches(network, files, args.batch_size)
    return collect_statistics(network.part, shown, sites, forward=network.model, acting=args.acting)


def accuracies(
    found: Mapping[str, SiteStatistics], domains: np.ndarray, args: argparse.Namespace
) -> dict[str, dict[str, float]]:
    """The probe's accuracies, before and after each place with a style layer, else one accuracy."""
    from timm_stylenorm.evaluation.probe import domain_probe

    scores: dict[str, dict[str, float]] = {}
    for name, place in found.items():
        for side, part in place.sides().items():
            features, labels = (part.style, domains) if args.pool == 1 else part.of_batches(domains, args.pool)
            scores.setdefault(name, {})[side] = round(domain_probe(features, labels, args.seed), 4)
    return scores


def measured(
    network: Network, images: Sequence[tuple[str, Path]], domains: np.ndarray, args: argparse.Namespace
) -> Measured:
    """The results of a network that the figures show."""
    from figures.style import Measured

    from timm_stylenorm.surgery.sites import find_sites

    sites, layers = args.sites or default_sites(network), args.layers or default_layers(network)
    asked = [[site.name + site.where for site in find_sites(network.part, names)] for names in (sites, layers)]
    labels = {site.name + site.where: site.label for site in find_sites(network.part, [*sites, *layers])}
    places, probed = ([labels[place] for place in names] for names in asked)  # one name for each module
    found = statistics_of(network, images, [*sites, *layers], args)
    return Measured(network.name, {name: found[name] for name in places}, probed, accuracies(found, domains, args))


def run(args: argparse.Namespace) -> None:
    """Collect, probe, draw, write."""
    import numpy as np
    from disk import write_text
    from figures import style
    from networks import networks

    from timm_stylenorm.evaluation.provenance import versions
    from timm_stylenorm.files import json_text

    domains = domains_of(args.domains, args.limit, args.pool)
    images = [(name, file) for name, files in domains.items() for file in files]
    images = [images[i] for i in np.random.default_rng(args.seed).permutation(len(images))]  # batches mix domains
    labels = np.array([name for name, _ in images])
    models = networks(args)
    found = [measured(network, images, labels, args) for network in models]
    args.out.mkdir(parents=True, exist_ok=True)
    style.draw_styles(args.out / 'style.png', found, labels, args.projection, args.seed)
    style.draw_norms(args.out / 'norms.png', found, labels)
    style.draw_probe(args.out / 'probe.png', found, len(domains))
    told = [
        {'name': net.name, 'weights': net.weights, 'probe': one.probe} for net, one in zip(models, found, strict=True)
    ]
    facts = {
        'models': told,
        'domains': {name: len(files) for name, files in domains.items()},
        **{name: getattr(args, name) for name in ('pool', 'acting', 'seed')},
        'versions': versions(),
    }
    write_text(args.out / 'statistics.json', json_text(facts))


def default_sites(network: Network) -> list[str]:
    """The names of the first and the last stage."""
    stages = stages_of(network)
    return [stages[0], stages[-1]]


def default_layers(network: Network) -> list[str]:
    """All batch norms, or all stages if the network has none."""
    from timm_stylenorm.surgery.sites import site_names

    return ['batch_norms'] if 'batch_norms' in site_names(network.part) else stages_of(network)


def stages_of(network: Network) -> list[str]:
    """The stages of the network's part that has sites."""
    from timm_stylenorm.surgery.structure import levels_of

    stages = [name for name in levels_of(network.part) if name.startswith('stage')]
    if not stages:
        raise ValueError(f'{network.name} has no stages that are known: name --sites and --layers')
    return stages


@command
def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    args = parse_args(argv)
    with claimed(args.out, 'these statistics', 'choose another --out'):
        run(args)
    print(f'wrote {args.out}: style.png, norms.png, probe.png, statistics.json')


if __name__ == '__main__':
    main()
