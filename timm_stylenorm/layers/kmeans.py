"""One-dimensional k-means, solved exactly."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    import numpy as np


def split_by_variance(variance: Tensor, clusters: int) -> Tensor:
    """A mask of all entries that are not in the lowest cluster of an optimal one-dimensional k-means.

    Args:
        variance: Values in any shape; every entry takes part in the clustering.
        clusters: Number of clusters, at least 2.

    Returns:
        A boolean mask in the shape of `variance`.
    """
    import numpy as np

    values, counts = torch.unique(variance.detach().double().cpu(), return_counts=True)
    zero = values.new_zeros(1)
    centred = values - (values * counts).sum() / counts.sum()
    sums = [torch.cat([zero, (centred**k * counts).cumsum(0)]) for k in range(3)]
    weight, first, second = (s.numpy() for s in sums)

    def spread(i: np.ndarray, j: np.ndarray | int) -> np.ndarray:
        """Sum of the squared distances of the values i, ..., j - 1 to their mean."""
        return second[j] - second[i] - (first[j] - first[i]) ** 2 / (weight[j] - weight[i])

    n = len(values)
    ends = np.arange(1, n + 1)
    best = spread(np.zeros(n, dtype=int), ends)  # best[j - 1]: spread of the values before j, as one cluster
    lowest = ends.copy()  # lowest[j - 1]: end of the lowest cluster
    for _ in range(1, min(clusters, n)):
        best, lowest = _one_more_cluster(best, lowest, spread)
    return variance > float(values[lowest[-1] - 1])


def _one_more_cluster(
    best: np.ndarray, lowest: np.ndarray, spread: Callable[[np.ndarray, np.ndarray | int], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Both arrays with one more cluster, for all prefixes, by divide and conquer: the last start is monotone."""
    import numpy as np

    n = len(best)
    new_best, new_lowest = best.copy(), lowest.copy()
    stack = [(1, n - 1, 1, n - 1)]  # prefixes of length j + 1; the last cluster starts at i, 1 <= i <= j
    while stack:
        low, high, first, last = stack.pop()
        if low > high:
            continue
        j = (low + high) // 2
        starts = np.arange(first, min(last, j) + 1)
        costs = best[starts - 1] + spread(starts, j + 1)
        i = int(starts[costs.argmin()])
        new_best[j], new_lowest[j] = costs.min(), lowest[i - 1]
        stack += [(low, j - 1, first, i), (j + 1, high, i, last)]
    return new_best, new_lowest
