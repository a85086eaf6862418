"""The report of a test over several domains: numbers as JSON, bar charts and confusion matrices as pictures."""

import math
from pathlib import Path
from typing import TypedDict

import numpy as np

from timm_stylenorm.files import atomic_write, json_text

COLUMNS = 4  # confusion matrices in a row of the picture


class Scored(TypedDict):
    """Results of one domain: scores and IoU by class in percent, and the confusion matrix (K, K)."""

    images: int
    scores: dict[str, float]
    IoU: dict[str, float]
    confusion: list[list[int]]


class DomainReport(Scored):
    """`Scored`, with the images that could not be read, each with the reason, and the pairs that are left out."""

    unread: list[dict[str, str]]
    left_out: list[str]


class Report(TypedDict):
    """The content of domains.json.

    Attributes:
        classes: Names of the classes.
        means: Domains of each mean.
        scores: Scores of each domain and mean, in percent.
        domains: All results of each domain.
    """

    classes: list[str]
    means: dict[str, list[str]]
    scores: dict[str, dict[str, float]]
    domains: dict[str, DomainReport]


def write_report(folder: Path, report: Report) -> None:
    """Write domains.json, domains.png and confusion.png, each completely or not at all.

    Args:
        folder: Output folder; created if missing.
        report: Results to write.
    """
    import matplotlib

    matplotlib.use('Agg')
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / 'domains.json') as part:
        part.write_text(json_text(report))
    with atomic_write(folder / 'domains.png') as part:
        _draw_scores(report, part)
    with atomic_write(folder / 'confusion.png') as part:
        _draw_confusion(report, part)


def _draw_scores(report: Report, file: Path) -> None:
    """Draw a bar for each domain and mean and, beside the bars, IoU by domain and class."""
    from matplotlib import pyplot as plt

    scores, classes = report['scores'], report['classes']
    names, values = list(scores), [row['mIoU'] for row in scores.values()]
    size = (6 + 0.45 * len(classes), 2.2 + 0.32 * len(names))
    figure, (bars, cells) = plt.subplots(1, 2, figsize=size, sharey=True, width_ratios=(4, 0.45 * len(classes)))
    colours = ['tab:grey' if name in report['means'] else 'tab:blue' for name in names]
    bars.barh(range(len(names)), np.nan_to_num(values), color=colours)
    for k, value in enumerate(values):
        bars.text(np.nan_to_num(value) + 1, k, f'{value:.1f}', va='center', fontsize=8)
    bars.set_yticks(range(len(names)), [name or 'all' for name in names])
    bars.set(xlim=(0, 109), title='mIoU, %' + (' (means in grey)' if report['means'] else ''))
    bars.invert_yaxis()
    bars.spines[['top', 'right']].set_visible(False)
    members = [report['means'].get(name, [name]) for name in names]
    table = np.array([np.ma.mean([_known(report, m) for m in group], axis=0).filled(np.nan) for group in members])
    cells.imshow(table, vmin=0, vmax=100, aspect='auto', cmap='viridis')
    for k, c in np.argwhere(~np.isnan(table)):
        dark = table[k, c] < 60
        cells.text(c, k, f'{table[k, c]:.0f}', ha='center', va='center', fontsize=7, color='w' if dark else 'k')
    cells.set_xticks(range(len(classes)), classes, rotation=60, ha='right', fontsize=8)
    cells.set_title('IoU by class, %')
    figure.tight_layout()
    figure.savefig(file, format='png', dpi=120)
    plt.close(figure)


def _known(report: Report, domain: str) -> np.ma.MaskedArray:
    """Return IoU by class as a masked array in which nan is masked."""
    return np.ma.masked_invalid([report['domains'][domain]['IoU'][name] for name in report['classes']])


def _draw_confusion(report: Report, file: Path) -> None:
    """Draw the confusion matrix of each domain; each row is a label class and adds up to 100 %."""
    from matplotlib import pyplot as plt

    domains, classes = report['domains'], report['classes']
    across = min(COLUMNS, len(domains))
    down = math.ceil(len(domains) / across)
    figure, axes = plt.subplots(
        down, across, figsize=(0.8 + 4 * across, 0.9 + 3.9 * down), squeeze=False, layout='constrained'
    )
    for ax in axes.flat[len(domains) :]:
        ax.set_visible(False)
    for number, (ax, (name, row)) in enumerate(zip(axes.flat, domains.items(), strict=False)):
        matrix = np.array(row['confusion'], float)
        with np.errstate(invalid='ignore'):
            shares = ax.imshow(100 * matrix / matrix.sum(1, keepdims=True), vmin=0, vmax=100, cmap='viridis')
        ax.set_title(f'{name or "all"}: {row["images"]} images', fontsize=9)
        below = number + across >= len(domains)
        ax.set_xticks(range(len(classes)), classes if below else [], rotation=90, fontsize=6)
        ax.set_yticks(range(len(classes)), [] if number % across else classes, fontsize=6)
    figure.supxlabel('predicted', fontsize=9)
    figure.supylabel('labelled', fontsize=9)
    figure.colorbar(shares, ax=axes, label="% of the class's pixels", shrink=0.6)
    figure.savefig(file, format='png', dpi=110)
    plt.close(figure)
