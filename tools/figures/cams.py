"""The picture of class activation maps: a row for each image, columns for the input and the models."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from disk import save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RIGHT, WRONG, UNKNOWN = '#1a7f37', '#c62828', '#333333'
SIDE = 1.9  # side of a panel in inches
LINE, TITLE = 0.14, 0.4  # heights of text in inches
MOST = 28  # maximum number of letters below a panel


class Panel(NamedTuple):
    """One image as one model sees it.

    Attributes:
        image: (3, H, W), uint8.
        heat: (H, W) in [0, 1].
        predicted: Name of the predicted class.
        share: Its probability, or its share of the pixels.
        label: Name of the right class; None if it is not known.
        target: Name of the explained class, if it is not the predicted one.
    """

    image: np.ndarray
    heat: np.ndarray
    predicted: str
    share: float
    label: str | None
    target: str | None


def draw(out: Path, names: Sequence[str], columns: Sequence[Sequence[Panel]]) -> None:
    """Writes the PNG.

    Args:
        out: Path of the PNG.
        names: Names of the models.
        columns: For each model, a panel for each image.
    """
    import matplotlib

    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    rows, width = len(columns[0]), 1 + len(names)
    blocks = max(1, min(rows, round(math.sqrt(rows / width))))  # side by side
    height = -(-rows // blocks)
    _, tall, wide = columns[0][0].image.shape
    panel = SIDE * max(1, wide / tall), SIDE * max(1, tall / wide)
    said = LINE * (2 if any(found.target for column in columns for found in column) else 1) + 0.12
    ratios = ([1.0] * width + [0.12]) * blocks
    size = panel[0] * sum(ratios), (panel[1] + said) * height + TITLE
    room = {'left': 0.005, 'right': 1, 'top': 1 - TITLE / size[1], 'bottom': said / size[1]}
    grid = {'width_ratios': ratios, 'wspace': 0.04, 'hspace': said / panel[1], **room}
    fig, axes = plt.subplots(height, len(ratios), figsize=size, squeeze=False, gridspec_kw=grid)
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
        ax.set_frame_on(False)
    for i in range(rows):
        line = axes[i % height, i // height * (width + 1) :]
        _fill(line, [column[i] for column in columns])
    for block in range(blocks):
        for ax, name in zip(axes[0, block * (width + 1) :], ['input', *names], strict=False):
            lines = name.replace(' (', '\n(').split('\n')
            ax.set_title('\n'.join(shortened(line, int(14 * panel[0])) for line in lines), fontsize=8)
    save_figure(fig, out, dpi=110)
    plt.close(fig)


def _fill(axes: Sequence[Axes], panels: Sequence[Panel]) -> None:
    """Fills one row: the image as the first model sees it, and the map of each model."""
    from pytorch_grad_cam.utils.image import show_cam_on_image

    axes[0].imshow(panels[0].image.transpose(1, 2, 0))
    axes[0].set_xlabel(shortened(panels[0].label or '', MOST), fontsize=8, color=UNKNOWN)
    for ax, found in zip(axes[1:], panels, strict=False):
        ax.imshow(show_cam_on_image(found.image.transpose(1, 2, 0) / np.float32(255), found.heat, use_rgb=True))
        colour = UNKNOWN if found.label is None else RIGHT if found.label == found.predicted else WRONG
        text = f'{shortened(found.predicted, MOST - 5)} {found.share:.0%}'
        if found.target:
            text += f'\nmap of {shortened(found.target, MOST - 7)}'
        ax.set_xlabel(text, fontsize=8, color=colour)


def shortened(text: str, most: int) -> str:
    """The text without its middle if it is too long, since file names often differ at the end."""
    return text if len(text) <= most else f'{text[: most // 2 - 1]}…{text[-(most - most // 2) :]}'
