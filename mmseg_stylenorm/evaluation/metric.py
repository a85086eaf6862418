"""IoU over several domains in one test."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger
from mmseg.registry import METRICS
from prettytable import PrettyTable
from torch import Tensor

from timm_stylenorm.errors import unknown

from .predictions import Sample, save_prediction
from .report import DomainReport, Report, Scored, write_report

ACROSS = 8  # columns (domains) of a table in the log
# SYNTHIA lacks the first three of these classes; results on 13 classes leave out all six.
ABSENT = ('terrain', 'truck', 'train', 'wall', 'fence', 'pole')
Result = tuple[str, np.ndarray | None, dict[str, str] | None]  # domain, confusion matrix, unreadable file
SUBSETS = {'mIoU16': ABSENT[:3], 'mIoU13': ABSENT}  # name -> classes left out


def confusion(prediction: Tensor, label: Tensor, classes: int, ignore_index: int = 255) -> np.ndarray:
    """Return pixel counts by label class (rows) and predicted class (columns), int64 (classes, classes).

    Raises:
        ValueError: A class id is out of range, or the label and the prediction differ in size.
    """
    if label.shape != prediction.shape:
        raise ValueError(
            f'a label is {tuple(label.shape)} and its prediction {tuple(prediction.shape)}: load labels after what '
            'resizes images, or put ScoreAsShown last'
        )
    keep = label != ignore_index
    label, prediction = label[keep].long(), prediction[keep].long()
    for what, ids in (('label', label), ('prediction', prediction)):
        wrong = ids[(ids < 0) | (ids >= classes)]
        if wrong.numel():
            raise ValueError(f'a {what} holds class {int(wrong[0])}, the data set has classes 0..{classes - 1}')
    return torch.bincount(label * classes + prediction, minlength=classes**2).view(classes, classes).cpu().numpy()


def class_scores(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return IoU and accuracy of each class in [0, 1]; nan for a class that does not occur."""
    hits, truth = matrix.diagonal(), matrix.sum(1)
    with np.errstate(invalid='ignore', divide='ignore'):
        return hits / (truth + matrix.sum(0) - hits), hits / truth


def _unmarked(names: object) -> Any:
    """Return names without the key `_scope_`, which mmengine adds to dicts that a config inherits from another one."""
    return {key: value for key, value in names.items() if key != '_scope_'} if isinstance(names, Mapping) else names


def _mean(values: Iterable[float]) -> float:
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float('nan')


@METRICS.register_module()
class DomainIoUMetric(BaseMetric):
    """IoU of each domain that the samples name (see `MultiDomainDataset`), and means over domains.

    Reports `<domain>/mIoU`, `<domain>/mAcc` and `<domain>/aAcc` in percent, computed as mmseg's `IoUMetric` does, and
    `<mean>/mIoU`, ... for the means. Without domains, it reports `mIoU`, ... of all samples. IoU by class is written to
    the log and, with everything else, to the report. Samples without labels are predicted but not scored. Pairs that
    the data set leaves out, and those that could not be read (`item_or_stand_in`), are counted and named in the report.

    Args:
        means: Lists of domains by the name of their mean; `{'mean': all domains}` by default. All domains have the same
            weight.
        pools: Lists of domains by the name of their pool, whose pixels are additionally counted as one domain.
        subsets: Names in `SUBSETS` to report besides mIoU: a list for all domains, or lists by domain or pool. 'mIoU16'
            averages the IoU of the classes that SYNTHIA has, 'mIoU13' of the 13 classes that are usually reported for
            it. The network keeps its 19 classes: if it predicts a class outside the subset, that pixel is an error.
        report_dir: Folder for domains.json, domains.png and confusion.png. If it is None, there is no report, unless
            `ReportHook` sets the run's own folder.
        output_dir: Folder for predictions as PNG files of train ids. Each domain has a sub-folder that mirrors the
            folders of its images, see `save_prediction`.
        ignore_index: Label id of pixels that do not count.
        prefix: See mmengine's `BaseMetric`.
        collect_device: See mmengine's `BaseMetric`.
        keep_results: Has no effect, as in mmseg's `IoUMetric`: files in `output_dir` are always kept. mmseg's
            tools/test.py sets it.

    Raises:
        ValueError: A subset is unknown; before a test, a domain is unknown; a class id is not one of the data set's.
    """

    default_prefix = ''  # the domain names already serve as prefixes

    def __init__(
        self,
        means: Mapping[str, Sequence[str]] | None = None,
        pools: Mapping[str, Sequence[str]] | None = None,
        subsets: Sequence[str] | Mapping[str, Sequence[str]] = (),
        report_dir: str | None = None,
        output_dir: str | None = None,
        ignore_index: int = 255,
        prefix: str | None = None,
        collect_device: str = 'cpu',
        keep_results: bool = False,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        means, pools, subsets = (_unmarked(names) for names in (means, pools or {}, subsets))
        self.means, self.pools, self.subsets = means, pools, subsets
        for name in [n for names in subsets.values() for n in names] if isinstance(subsets, Mapping) else subsets:
            if name not in SUBSETS:
                raise ValueError(unknown('subset of classes', name, SUBSETS))
        self.report_dir, self.output_dir, self.ignore_index = report_dir, output_dir, ignore_index

    @BaseMetric.dataset_meta.setter
    def dataset_meta(self, meta: dict) -> None:
        """Stores the data set's meta information, and checks the domain names against it before the test begins."""
        self._dataset_meta = meta
        means = self.means or {}
        pooled = {name for names in self.pools.values() for name in names}
        named = {name for names in means.values() for name in names}
        named |= set(self.subsets) if isinstance(self.subsets, Mapping) else set()
        domains = [*meta.get('known_domains', (pooled | named).difference(self.pools))]
        for names, known in ((pooled, domains), (named, [*domains, *self.pools])):
            for name in sorted(names.difference(known)):
                raise ValueError(f'DomainIoUMetric: {unknown("domain", name, known)}')
        for name in {*means, *self.pools} & {*meta.get('known_domains', ())}:
            raise ValueError(f'DomainIoUMetric: a mean or pool is called {name!r}, and so is a domain')
        for name in {*means} & {*self.pools}:
            raise ValueError(f'DomainIoUMetric: a mean is called {name!r}, and so is a pool')

    def process(self, data_batch: object, data_samples: Sequence[Sample]) -> None:
        """Stores the domain and confusion matrix of each image. `data_samples` are mmseg's, as dicts."""
        for sample in data_samples:
            prediction, domain = sample['pred_sem_seg']['data'].squeeze(0), sample.get('domain', '')
            matrix, unread = None, sample.get('unread')
            if unread:
                self.results.append((domain, None, unread))
                continue
            if 'gt_sem_seg' in sample:
                label = sample['gt_sem_seg']['data'].squeeze(0).to(prediction.device)
                matrix = confusion(prediction, label, len(self.dataset_meta['classes']), self.ignore_index)
            # one entry for each sample: mmengine cuts off samples that pad the last batches by their number
            self.results.append((domain, matrix, None))
            if self.output_dir:
                save_prediction(sample, self.output_dir, self.dataset_meta.get('image_folders'))

    def compute_metrics(self, results: list[Result]) -> dict[str, float]:
        """Return percentages from the matrices of all processes; write the log tables and the report."""
        groups: dict[str, list[np.ndarray]] = {}
        unread: dict[str, list[dict[str, str]]] = {}
        for domain, matrix, fault in results:
            if matrix is not None or fault is not None:
                groups.setdefault(domain, []).extend([] if matrix is None else [matrix])
                unread.setdefault(domain, []).extend([] if fault is None else [fault])
        known = self.dataset_meta.get('left_out') or {}
        left_out = {name: list(pairs) for name, pairs in (known if isinstance(known, dict) else {'': known}).items()}
        tested = list(groups)
        every: tuple[dict[str, list], ...] = (groups, unread, left_out)
        for name, parts in self.pools.items():
            if parts and set(parts) <= set(tested):
                for found in every:
                    found[name] = [entry for part in parts for entry in found.get(part, ())]
        rows: dict[str, DomainReport] = {
            name: {**self._row(name, matrices), 'unread': unread[name], 'left_out': left_out.get(name, [])}
            for name, matrices in groups.items()
        }
        means = {'mean': tested} if self.means is None and len(tested) > 1 else self.means or {}
        means = {name: list(parts) for name, parts in means.items() if parts and set(parts) <= set(rows)}
        scores = {name: row['scores'] for name, row in rows.items()}
        for name, parts in means.items():
            shared = [key for key in scores[parts[0]] if all(key in scores[part] for part in parts)]
            scores[name] = {key: float(np.mean([scores[part][key] for part in parts])) for key in shared}
        self._log(rows, scores)
        if self.report_dir and rows:
            report: Report = {
                'classes': list(self.dataset_meta['classes']),
                'means': means,
                'scores': scores,
                'domains': rows,
            }
            write_report(Path(self.report_dir), report)
        values = {f'{name}/{key}'.lstrip('/'): value for name, row in scores.items() for key, value in row.items()}
        return {key: round(value, 2) for key, value in values.items()}

    def _row(self, name: str, matrices: list[np.ndarray]) -> Scored:
        """Return all results of a domain, scores in percent."""
        classes = self.dataset_meta['classes']
        matrix = np.sum(matrices, axis=0) if matrices else np.zeros((len(classes), len(classes)), np.int64)
        iou, accuracy = (100 * values for values in class_scores(matrix))
        scores = {'mIoU': _mean(iou), 'mAcc': _mean(accuracy)}
        scores['aAcc'] = float(100 * matrix.trace() / matrix.sum()) if matrix.any() else float('nan')
        subsets = self.subsets.get(name, ()) if isinstance(self.subsets, Mapping) else self.subsets
        for subset in subsets:
            scores[subset] = _mean(v for label, v in zip(classes, iou, strict=True) if label not in SUBSETS[subset])
        by_class = dict(zip(classes, iou.tolist(), strict=True))
        return {'images': len(matrices), 'scores': scores, 'IoU': by_class, 'confusion': matrix.tolist()}

    def _log(self, rows: dict[str, DomainReport], scores: dict[str, dict[str, float]]) -> None:
        """Log tables: scores of domains and means; IoU by class and domain, with up to `ACROSS` domains in a table."""
        columns = list(dict.fromkeys(key for row in scores.values() for key in row))
        tables = [PrettyTable(['domain', 'images', *columns], align='r')]
        for name, row in scores.items():
            images = rows[name]['images'] if name in rows else ''
            tables[0].add_row([name or 'all', images, *(f'{row[key]:.2f}' if key in row else '' for key in columns)])
        left_out = {name: len(row['left_out']) for name, row in rows.items()}
        unread = {name: len(row['unread']) for name, row in rows.items()}
        for title, counts in (('left out', left_out), ('not read', unread)):
            if any(counts.values()):
                tables[0].add_column(title, [counts.get(name, '') for name in scores])
        names = list(rows)
        for part in (names[k : k + ACROSS] for k in range(0, len(names), ACROSS)):
            tables.append(PrettyTable(['IoU', *(name or 'all' for name in part)], align='r'))
            for label in self.dataset_meta['classes']:
                tables[-1].add_row([label, *(f'{rows[name]["IoU"][label]:.2f}' for name in part)])
        MMLogger.get_current_instance().info('\n'.join(['percent of each domain and class:', *map(str, tables)]))
