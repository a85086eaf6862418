"""From counts of images to scores, in percent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Count = Mapping[str, int]
Counts = Mapping[str, Count]

# Top-1 errors of AlexNet, means over five severities: Hendrycks and Dietterich, ICLR 2019, and hendrycks/robustness
ALEXNET = {
    'gaussian_noise': 0.886428, 'shot_noise': 0.894468, 'impulse_noise': 0.922640, 'defocus_blur': 0.819880,
    'glass_blur': 0.826268, 'motion_blur': 0.785948, 'zoom_blur': 0.798360, 'snow': 0.866816, 'frost': 0.826572,
    'fog': 0.819324, 'brightness': 0.564592, 'contrast': 0.853204, 'elastic_transform': 0.646056,
    'pixelate': 0.717840, 'jpeg_compression': 0.606500,
}  # fmt: skip
ALEXNET_CLEAN = 1 - 0.56522  # of torchvision's AlexNet, whose errors are above
EXTRA = ('speckle_noise', 'gaussian_blur', 'spatter', 'saturate')
NEED_CLEAN = {'relative_mCE', 'top1_clean_subset'}  # scores that need the clean images


def share(count: Count, name: str = 'top1') -> float:
    """Share of the images, in percent."""
    return 100 * count[name] / count['total'] if count['total'] else float('nan')


def error(count: Count) -> float:
    return 100 - share(count)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _of(counts: Counts, corruption: str) -> list[float]:
    return [error(count) for name, count in counts.items() if name.partition('/')[0] == corruption]


def _corruptions(counts: Counts) -> list[str]:
    return list(dict.fromkeys(name.partition('/')[0] for name in counts))


def accuracy(counts: Counts, clean: Count | None) -> dict[str, float]:
    """Accuracy over all images together."""
    total = {key: sum(count[key] for count in counts.values()) for key in ('total', 'top1', 'top5')}
    return {'top1': share(total), 'top5': share(total, 'top5')}


def subset(counts: Counts, clean: Count | None) -> dict[str, float]:
    """Accuracy over some of the classes, and over the clean images of the same classes."""
    scores = {'top1': accuracy(counts, None)['top1']}
    return scores if clean is None else {**scores, 'top1_clean_subset': share(clean)}


def mean_error(counts: Counts, clean: Count | None) -> dict[str, float]:
    """Plain mean over the corruptions of the mean error of each."""
    mean = _mean([_mean(_of(counts, name)) for name in _corruptions(counts)])
    return {'mean_error': mean, 'top1': 100 - mean}


def mean_top1(counts: Counts, clean: Count | None) -> dict[str, float]:
    """The scores of `mean_error`, accuracy first."""
    return dict(reversed(mean_error(counts, clean).items()))


def cifar_c(counts: Counts, clean: Count | None) -> dict[str, float]:
    """Plain mean of the errors of the 15 corruptions that are there, and of the four extra ones."""
    usual = {name: count for name, count in counts.items() if name.partition('/')[0] in ALEXNET}
    extra = {name: count for name, count in counts.items() if name.partition('/')[0] in EXTRA}
    scores = mean_error(usual, None) if usual else {}
    return scores | ({'extra_mean_error': mean_error(extra, None)['mean_error']} if extra else {})


def imagenet_c(counts: Counts, clean: Count | None) -> dict[str, float]:
    """The scores of `cifar_c` and, if all 15 corruptions are complete, scores relative to AlexNet's errors:

        CE_c = 100 * sum_s error(c, s) / sum_s error_AlexNet(c, s),    mCE = mean_c CE_c

    For relative_mCE, the errors on clean images are subtracted in both sums.
    """
    scores, relative = cifar_c(counts, None), corruption_errors(counts)
    if relative.keys() != ALEXNET.keys():
        return scores
    found = {'mCE': _mean(list(relative.values()))}
    if clean is not None:
        base = error(clean)
        beyond = {c: _mean(_of(counts, c)) - base for c in ALEXNET}
        found['relative_mCE'] = _mean([beyond[c] / (ALEXNET[c] - ALEXNET_CLEAN) for c in ALEXNET])
    return found | scores


def corruption_errors(counts: Counts) -> dict[str, float]:
    """CE_c of each corruption that has all five severities."""
    means = {c: _of(counts, c) for c in ALEXNET}
    return {c: _mean(values) / ALEXNET[c] for c, values in means.items() if len(values) == 5}


def shape_bias(counts: Counts, clean: Count | None) -> dict[str, float]:
    """Share of shape decisions among the decisions for the shape or the texture of an image; nan without any."""
    total = {key: sum(count[key] for count in counts.values()) for key in ('total', 'shape', 'texture')}
    decided = total['shape'] + total['texture']
    return {
        'shape_bias': 100 * total['shape'] / decided if decided else float('nan'),
        'shape_top1': share(total, 'shape'),
        'texture_top1': share(total, 'texture'),
    }


def shifts(counts: Counts, clean: Count | None) -> dict[str, float]:
    """Accuracy on the clean images, and its mean over the other styles."""
    others = [share(count) for name, count in counts.items() if name != 'clean']
    return {'top1': share(counts['clean'])} | ({'top1_shifted': _mean(others)} if others else {})
