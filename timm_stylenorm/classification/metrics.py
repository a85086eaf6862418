"""Top-k accuracy, over all images and per domain."""

from collections import defaultdict
from collections.abc import Sequence

from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS


@METRICS.register_module()
class TopK(BaseMetric):
    """Share of images, in percent, whose label is among the k classes with the highest scores.

    Reports `accuracy/top1`, `accuracy/top5`, ... over all images: `save_best='accuracy/top1'` takes such a key. If the
    images have a domain (several test sets in one `MultiDomainDataset`, or `DomainFolders`), it also reports
    `accuracy/<domain>/top1`, ... for each domain and, for several domains, their mean `accuracy/mean_top1`, in which
    each domain has the same weight. A class with the same score as the label ranks before it if its index is smaller.
    An image that could not be read (see `UnreadHook`) does not count.

    Args:
        topk: the values of k.
        prefix: replaces 'accuracy', so that several metrics or test sets can be told apart.
        collect_device: see mmengine's `BaseMetric`.
    """

    default_prefix = 'accuracy'

    def __init__(
        self, topk: int | Sequence[int] = (1, 5), prefix: str | None = None, collect_device: str = 'cpu'
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.topk = (topk,) if isinstance(topk, int) else tuple(topk)
        if not self.topk or min(self.topk) < 1:
            raise ValueError(f'TopK: topk takes whole numbers of at least 1, got {topk}')

    def process(self, data_batch: object, data_samples: Sequence[dict]) -> None:
        """Keep the rank of each label. data_samples: dicts with `scores` (K,), `target` (int) and maybe `domain`."""
        for sample in data_samples:
            if 'unread' in sample:
                self.results.append((None, None))  # processes must have as many results as images
                continue
            scores, target = sample['scores'], sample['target']
            if max(self.topk) > len(scores):
                raise ValueError(
                    f'TopK: top-{max(self.topk)} accuracy needs more than the {len(scores)} classes of this model; '
                    f'set topk=(1,) in the evaluator'
                )
            ahead = (scores > scores[target]).sum() + (scores[:target] == scores[target]).sum()
            self.results.append((int(ahead), sample.get('domain')))

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Percentages from the (rank, domain) pairs of all processes."""
        groups = defaultdict(list)
        for rank, domain in results:
            if rank is None:
                continue
            groups[''].append(rank)
            if domain is not None:
                groups[f'{domain}/'].append(rank)
        scores = {
            f'{group}top{k}': 100 * sum(rank < k for rank in ranks) / len(ranks)
            for group, ranks in groups.items()
            for k in self.topk
        }
        domains = [group for group in groups if group]
        if len(domains) > 1:
            for k in self.topk:
                scores[f'mean_top{k}'] = sum(scores[f'{group}top{k}'] for group in domains) / len(domains)
        return scores
