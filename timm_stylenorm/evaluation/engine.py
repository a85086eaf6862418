"""Measure a network by a protocol, part by part; a repeated call goes on where an earlier one was interrupted."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from timm.data import create_transform, resolve_model_data_config
from timm.utils import unwrap_model
from torch import nn

from ..dual_bn import routed
from ..errors import unknown
from ..files import atomic_write
from ..surgery.context import eval_mode
from . import cells as find
from .images import Cell, Shown
from .labels import Groups
from .options import Options
from .protocols import Protocol, get_protocol
from .provenance import config_of, digest, name_of, structure, told_transform, versions, weight_hash
from .readers import Source, place_of
from .running import Progress, Runner, Running, rank
from .scores import NEED_CLEAN


@dataclass
class Result:
    """The scores of a network by a protocol.

    Attributes:
        protocol: Its name.
        scores: By metric, in percent.
        cells: Counts of each part: 'total', 'top1', 'top5' (or 'shape', 'texture'), and 'damaged' files.
        provenance: What was measured, with what, on which images, and what was missing.
    """

    protocol: str
    scores: dict[str, float]
    cells: dict[str, dict[str, int]]
    provenance: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, object]:
        return asdict(self)


def evaluate(
    model: nn.Module,
    protocol: str,
    root: str | Path,
    *,
    name: str | None = None,
    weights: str = '',
    metrics: str | Sequence[str] | None = None,
    clean: str | Path | None = None,
    bn: str = 'clean',
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    options: Options | None = None,
    running: Running | None = None,
    store: str | Path | None = None,
    progress: Progress | None = None,
) -> Result:
    """Score a network on the images of a protocol.

    In a group of processes (`torch.distributed`) each takes its share of the images, and every image counts once.

    Args:
        model: Returns logits (N, K) for normalised images (N, 3, H, W). The images are prepared as the model's timm
            configuration (`pretrained_cfg`) says, or else as for ImageNet.
        protocol: One of `list_protocols()`.
        root: The folder of the protocol's files, see `PROTOCOLS[protocol].layout`. If these are class folders, also a
            tar file of them, 'hfds/NAME:SPLIT', or 'wds/FOLDER:SPLIT', whose labels are outputs of the network.
        name: Name of the model in tables; by default timm's.
        weights: Where the weights are from, for tables.
        metrics: Name or names of metrics; by default all of the protocol. It is an error if a metric needs all its
            parts and one is missing, except for a `mean_error` that is named here.
        clean: The clean ImageNet validation images, given like `root`; for `relative_mCE` and `top1_clean_subset`.
        bn: Which of the dual batch norms to use: 'clean' or 'adversarial'.
        mean: Mean of each channel, for values in [0, 1]; by default as described under `model`.
        std: See `mean`.
        options: Which images to use; see `Options`.
        running: How the network runs; see `Running`.
        store: Folder for the counts of each part: a repeated call takes the counts that are there.
        progress: Called with the name of a part, the number of images that are done, and of all that are to do.

    Raises:
        ValueError: An unknown protocol or metric, a metric whose parts or clean images are not all there, `options` of
            another protocol, classes that do not fit the network, or files of another size.
        FileNotFoundError: The files of the protocol are missing.
    """
    row = get_protocol(protocol)
    place, options, running = place_of(root), options or Options(), running or Running()
    metrics = (metrics,) if isinstance(metrics, str) else metrics
    if not (row.in_readers or isinstance(place, Path)):
        raise ValueError(f'{protocol} is read from folders, not by a reader as of {place}: {row.layout}')
    for metric in metrics or ():
        if metric not in row.metrics:
            raise ValueError(unknown(f'metric of {protocol}:', metric, row.metrics))
        if metric in NEED_CLEAN and clean is None:
            raise ValueError(f'{metric} of {protocol} needs the clean ImageNet validation images: clean=FOLDER')
    for option in ('subset', 'corruptions'):
        if getattr(options, option) is not None and option not in row.takes:
            raise ValueError(f'{protocol} has no {option} to choose, got {option}={getattr(options, option)!r}')
    parts = [find.limited(cell, options.limit) for cell in row.cells(place, options)]
    lacking = _lacking(row, protocol, parts, metrics, options)
    base = unwrap_model(model)
    show = shown_by(base, mean, std, row.size)
    groups = row.groups(place) if row.groups else None
    twin_place = place_of(clean) if clean is not None and NEED_CLEAN.intersection(row.metrics) else None
    twin_cell = None if twin_place is None else _clean_cell(groups, twin_place, options)
    hashed = weight_hash(base)
    told: dict[str, object] = {
        'model': name or name_of(base), 'weights': weights, 'weight_hash': hashed, 'root': str(place),
        'transform': told_transform(show), 'batch_norms': bn, 'missing': lacking, **asdict(options),
        'versions': versions(), 'config': config_of(base),
    }  # fmt: skip
    key = digest([hashed, structure(base), protocol, told['transform'], bn, asdict(options), running.amp])
    keeper = None if store is None else Path(store) / f'{protocol}-{key}'
    runner = Runner(model, row, show, running, options.seed, progress)
    with ExitStack() as stack:
        stack.enter_context(eval_mode(model))
        if bn != 'clean':
            stack.enter_context(routed(base, bn))
        counts = {cell.name: _kept(runner, cell, groups, place, keeper) for cell in parts}
        twin = None
        if twin_cell is not None:
            runner = replace(runner, show=shown_by(base, mean, std))
            twin = _kept(runner, twin_cell, groups, twin_place, keeper)
    scores = row.scores(counts, twin)
    wanted = row.metrics if metrics is None else metrics
    chosen = {metric: scores[metric] for metric in wanted if metric in scores}
    return Result(protocol, chosen, counts, {**told, **({} if twin is None else {'clean': dict(twin)})})


def _lacking(
    row: Protocol, protocol: str, parts: Sequence[Cell], metrics: Sequence[str] | None, options: Options
) -> list[str]:
    """The missing parts of the scores that need all their parts.

    Raises:
        ValueError: A wanted score needs a missing part.
    """
    lacking: dict[str, list[str]] = {}
    images = {cell.name: len(cell) for cell in parts}
    for metric, whole in (row.complete or {}).items():
        lacking[metric] = find.missing(images, whole)
    needed = [metric for metric in row.metrics if metrics is None or metric in metrics]
    for metric, gone in lacking.items():
        if gone and metric in needed and not (metric == 'mean_error' and metrics is not None):
            raise ValueError(
                f'{metric} of {protocol} is over {len((row.complete or {})[metric])} corruptions at 5 severities, and '
                f"these are missing: {', '.join(gone)}. metrics=['mean_error'] takes the plain mean over what is there"
            )
    return sorted({part for gone in lacking.values() for part in gone})


def _clean_cell(groups: Groups | None, clean: Path | Source, options: Options) -> Cell:
    if groups is not None:
        cell = find.clean_subset(clean, groups.names)
    else:
        (cell,) = find.plain(clean, options)
    return find.limited(replace(cell, name='clean'), options.limit)


def shown_by(
    model: nn.Module,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    size: tuple[int, int] | None = None,
) -> Shown:
    """How images are prepared for a network, as its timm configuration says.

    Args:
        model: The network.
        mean: Mean of each channel, instead of the configured one.
        std: See `mean`.
        size: Rows and columns of files that are neither resized nor cropped.
    """
    config = resolve_model_data_config(model)
    mean, std = tuple(mean or config['mean']), tuple(std or config['std'])
    grey = config['input_size'][0] == 1
    if grey:
        mean, std = (values if len(values) == 1 else (sum(values) / len(values),) for values in (mean, std))
    if size is not None:
        return Shown(mean, std, size=size, grey=grey)
    scaled = {k: config[k] for k in ('input_size', 'interpolation', 'crop_pct', 'crop_mode')}
    transform = create_transform(**scaled, is_training=False, normalize=False)
    steps = [step for step in transform.transforms if 'Tensor' not in type(step).__name__]
    return Shown(mean, std, resize=type(transform)(steps), grey=grey)


def _kept(runner: Runner, cell: Cell, groups: Groups | None, root: object, keeper: Path | None) -> dict[str, int]:
    """The counts of a part: those that an earlier call stored for the same files, shown alike, or new ones."""
    file = None if keeper is None else keeper / f'{cell.name.replace("/", "_")}.json'
    files = digest([cell.identity(), told_transform(runner.show)]) if file is not None and rank() == 0 else ''
    kept = None
    if file is not None and rank() == 0 and file.is_file():
        stored = json.loads(file.read_text())
        kept = dict(stored['counts']) if stored['files'] == files else None
    kept = runner.first_of(kept)
    if kept is not None:
        return kept
    counts = runner.count(cell, groups, root)
    if file is not None and rank() == 0:
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(file) as part:
            part.write_text(json.dumps({'files': files, 'counts': counts}))
    return counts
