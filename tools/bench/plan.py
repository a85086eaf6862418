"""The runs of a study: for each row and seed a complete config, and a folder that only runs of equal content share."""

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.rows import Row, Study
from bench.runs import fingerprint, read_json, write_json
from cli import check_data, domains_of, kind_of, load_config, parser, require
from disk import write_text

if TYPE_CHECKING:
    from mmengine.config import Config

NEEDS = ('train_dataloader', 'train_cfg', 'optim_wrapper', 'test_dataloader', 'test_evaluator', 'test_cfg')
METRICS = {  # type: (its score, key of a domain's score, short name)
    'TopK': ('accuracy/top1', r'accuracy/(.+)/top1', 'top-1'),
    'Accuracy': ('accuracy/top1', r'accuracy/(.+)/top1', 'top-1'),
    'IoUMetric': ('mIoU', r'(.+)/mIoU', 'mIoU'),
    'DomainIoUMetric': ('mIoU', r'(.+)/mIoU', 'mIoU'),
}
STEPS = ('begin', 'end', 'T_max', 'step_size', 'total_iters')  # keys of a schedule that count iterations


@dataclass(frozen=True)
class Run:
    """A row of a study with one seed.

    Args:
        study: Title of its table.
        name: Name of its row.
        seed: Seed of everything random.
        row: The row.
        cfg: The config of its training.
        folder: Folder of all that it writes; its name ends with a digest of the config.
        start: The run from whose weights it starts.
        predictions: Whether it writes the predictions of the test.
    """

    study: str
    name: str
    seed: int
    row: Row
    cfg: 'Config'
    folder: Path
    start: 'Run | None' = None
    predictions: bool = False

    def __str__(self) -> str:
        return f'{self.study}, {self.name}, seed {self.seed}'

    @property
    def result_file(self) -> Path:
        """Path of its result, which exists once the run is finished."""
        return self.folder / 'result.json'

    @property
    def trained_file(self) -> Path:
        """Path of a file that exists as long as a finished training and its weights do."""
        return self.folder / 'trained.json'

    def result(self) -> dict[str, Any]:
        """The measured `scores` by domain, in percent, and `seconds` of training."""
        held = read_json(self.result_file)
        order = dict.fromkeys((*known_domains(self.cfg), *held['scores']))  # as in the config; its file is not ordered
        scores = {name: held['scores'][name] for name in order}
        named = {'study': self.study, 'method': self.name, 'seed': self.seed, 'folder': self.folder.name}
        return {**named, 'scores': scores, 'seconds': held['seconds']}

    def write(self) -> None:
        """Writes the files that its process reads: the config, and the job."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(self.folder / 'config.py', self.cfg.pretty_text)
        start = str(self.start.folder.resolve()) if self.start else None
        job = {'name': str(self), 'trains': self.row.iters != 0, 'start': start, 'adabn': self.row.adabn}
        write_json(self.folder / 'job.json', job | {'predictions': self.predictions})


def plan(study: Study, seeds: list[int], work_dir: Path) -> list[Run]:
    """All runs of a study, seed by seed, each after the run from which it starts.

    Raises:
        ValueError: A config cannot be compared, see `config_of`.
        FileNotFoundError: Data are missing.
    """
    needed = [name for name in study.rows if name in _with_starts(study)]
    configs = {name: config_of(study.rows[name]) for name in needed}
    runs: dict[tuple[str, int], Run] = {}

    def add(name: str, seed: int) -> Run:
        if (name, seed) not in runs:
            row, cfg = study.rows[name], copy.deepcopy(configs[name])
            cfg.randomness = {**cfg.get('randomness', {}), 'seed': seed}
            start = add(row.start, seed) if row.start else None
            said = {key: value for key, value in cfg.to_dict().items() if key != 'work_dir'}
            content = {'config': said, 'adabn': row.adabn, 'iters': row.iters, 'predictions': study.predictions}
            digest = fingerprint(content | {'start': start.folder.name if start else None})[:8]
            folder = work_dir / slug(study.title) / f'{slug(name)}-seed{seed}-{digest}'
            runs[name, seed] = Run(study.title, name, seed, row, cfg, folder, start, study.predictions)
        return runs[name, seed]

    for seed in seeds:
        for name in needed:
            add(name, seed)
    return list(runs.values())


def _with_starts(study: Study) -> set[str]:
    """The names of the rows that are shown, and of those from which they start."""
    found, left = set(), list(study.shown)
    while left:
        name = left.pop()
        found.add(name)
        left += [study.rows[name].start] if study.rows[name].start else []
    return found


def slug(name: str) -> str:
    """A name as part of file names: 'padain:p=0.1' -> 'padain-p-0.1'."""
    return re.sub(r'[^\w.]+', '-', name).strip('-')


def config_of(row: Row) -> 'Config':
    """The config of a row: its training without validation, whose last checkpoint is tested, and its test.

    Raises:
        ValueError: The config lacks what a training or a test needs, has no metric of `METRICS`, or trains by epochs
            although `iters` is given.
        FileNotFoundError: Data are missing.
    """
    from timm_stylenorm.runner.optim import check_optimizer

    options = ['--cfg-options', *row.options] if row.options else []
    cfg = load_config(parser('').parse_args([row.config, *row.words, *options]))
    require(cfg, row.config, *NEEDS)
    check_optimizer(cfg)
    for loader in ('train_dataloader', 'test_dataloader'):
        check_data(cfg[loader], row.config)
    metric_of(cfg, row.config)
    _test_both_domains(cfg)
    cfg.val_dataloader = cfg.val_cfg = cfg.val_evaluator = None
    hooks = dict(cfg.get('default_hooks') or {})
    keep = {'type': 'CheckpointHook', 'by_epoch': 'max_epochs' in cfg.train_cfg, **(hooks.get('checkpoint') or {})}
    keep = {key: value for key, value in keep.items() if key not in ('save_best', 'rule', 'out_dir')}
    cfg.default_hooks = {**hooks, 'checkpoint': {**keep, 'max_keep_ckpts': 1, 'save_last': True}}
    if row.iters:
        _set_length(cfg, row.iters, row.config)
    if row.lr_factor != 1:
        require(cfg.optim_wrapper, f'the optim_wrapper of {row.config}', 'optimizer')
        cfg.optim_wrapper.optimizer.lr *= row.lr_factor
    cfg.resume = True
    return cfg


def metric_of(cfg: 'Config', config: str) -> Mapping[str, Any]:
    """The metric of a config's test whose scores are compared.

    Raises:
        ValueError: There is no such metric.
    """
    given = cfg.test_evaluator if isinstance(cfg.test_evaluator, list) else [cfg.test_evaluator]
    for metric in given:
        if kind_of(metric) in METRICS:
            return metric
    kinds = ', '.join(kind_of(metric) for metric in given)
    raise ValueError(f'{config} is tested by {kinds}; what can be compared are {", ".join(METRICS)}')


def seen_domains(row: Row, given: Sequence[str] | None) -> tuple[str, ...]:
    """The test domains that training has seen: as given, or `seen_domains` of the config, or 'seen'.

    Raises:
        ValueError: A domain is unknown, although the config names its domains.
    """
    from timm_stylenorm.errors import unknown

    cfg = config_of(row)
    seen, known = given or cfg.get('seen_domains') or [], known_domains(cfg)
    for name in seen:
        if known and name not in known:
            raise ValueError(unknown('domain', name, known))
    return tuple(seen) or ('seen',)


def known_domains(cfg: 'Config') -> list[str]:
    """Names of the test domains; [] if the config does not list them by name."""
    dataset = cfg.test_dataloader.dataset
    if not dataset.get('domains') or not isinstance(dataset.domains, dict):
        return []
    chosen = domains_of(dataset)
    return [name for name, part in dataset.domains.items() if any(part is one for one in chosen)]


def scores_of(metrics: Mapping[str, float], cfg: 'Config') -> dict[str, float]:
    """The score of each domain in percent, from a test's metrics; a single domain without name is called 'test'."""
    metric = metric_of(cfg, 'the config')
    single, pattern, _ = METRICS[kind_of(metric)]
    found = {match[1]: float(value) for key, value in metrics.items() if (match := re.fullmatch(pattern, key))}
    means = {'mean', *(metric.get('means') or {}), *(metric.get('pools') or {})}
    domains = known_domains(cfg) or [name for name in found if name not in means]
    return {name: round(found[name], 4) for name in domains} or {'test': round(float(metrics[single]), 4)}


def _test_both_domains(cfg: 'Config') -> None:
    """Adds a config's `seen_dataset`, test data of the training's domain, to the test, which then has both."""
    if not cfg.get('seen_dataset') or known_domains(cfg):
        return
    domains = {'seen': cfg.seen_dataset, 'unseen': cfg.test_dataloader.dataset}
    cfg.test_dataloader.dataset = {'type': 'MultiDomainDataset', 'domains': domains}
    cfg.test_evaluator = {'type': 'DomainIoUMetric'}


def _set_length(cfg: 'Config', iters: int, config: str) -> None:
    """Sets a config to `iters` iterations, with a schedule of the same shape."""
    configured = cfg.train_cfg.get('max_iters')
    if configured is None:
        raise ValueError(
            f'{config} trains by epochs, and --iters and --fine-tune count iterations; say how many epochs by '
            '--cfg-options train_cfg.max_epochs=N'
        )
    cfg.train_cfg.max_iters = iters
    for part in _schedulers(cfg.get('param_scheduler')):
        scaled = {key: part[key] * iters // configured for key in STEPS if isinstance(part.get(key), int)}
        if 'end' in scaled:
            scaled['end'] = max(scaled['end'], scaled.get('begin', 0) + 1)
        if part.get('milestones'):
            scaled['milestones'] = [step * iters // configured for step in part['milestones']]
        part.update({key: max(1, value) if key in ('T_max', 'step_size') else value for key, value in scaled.items()})


def _schedulers(given: Any) -> Iterator[Any]:
    """A config's schedules that count iterations; it may have one, a list, or one of these for each optimizer."""
    if isinstance(given, list | tuple):
        for part in given:
            yield from _schedulers(part)
    elif given and 'type' not in given:
        yield from _schedulers(list(given.values()))
    elif given and not given.get('by_epoch', True):
        yield given
