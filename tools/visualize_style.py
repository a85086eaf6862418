"""Shows as images what style methods do to feature maps: python tools/visualize_style.py IMAGES --checkpoint FILE.

Feature maps of a classifier are restyled after each stage and decoded back to pixels: a PNG with a block for each
image, rows for methods and columns for stages. The first row is decoded unchanged and shows what the decoder itself
loses. AdvBN's noise raises the loss of the classifier. Decoders are trained on the spot, on the given images; with
--styliser-encoder and --styliser-decoder the maps are those of the styliser's VGG-19, in one column.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from cli import COUNT, at_least, parse_pictures, picture_parser
from disk import save_figure
from mistakes import command
from tqdm import tqdm

if TYPE_CHECKING:
    from figures.decode import Codec
    from figures.pictures import Classifier
    from torch import Tensor

METHODS = ['padain', 'mixstyle:alpha=1', 'advbn']
NONE = 'none'  # the row that is decoded unchanged


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    own = picture_parser(__doc__)
    own.add_argument('--methods', nargs='+', default=METHODS, help="rows: 'padain', 'mixstyle:alpha=1', ...")
    own.add_argument(
        '--stages', nargs='+', default=['stage1', 'stage2', 'stage3'], help='columns, in the order of the network'
    )
    own.add_argument('--labels', type=at_least(int, 0), nargs='+', help='classes of the images (default: predicted)')
    own.add_argument('--show', type=COUNT, default=4, help='so many images, evenly chosen')
    own.add_argument('--limit', type=COUNT, default=16, help='use at most so many images of the folder, as one batch')
    own.add_argument('--out', type=Path, default=Path('style.png'))
    return parse_pictures(own, argv)


def codecs(args: argparse.Namespace, classifier: Classifier, images: Tensor) -> list[Codec]:
    """The codecs, one for each column, with trained decoders."""
    from figures.decode import StageCodec, StyliserCodec

    if args.styliser_encoder is not None:
        return [StyliserCodec(classifier, args.styliser_encoder, args.styliser_decoder)]
    found: list[StageCodec] = []
    for stage in args.stages:
        found.append(StageCodec(classifier, stage, found[-1] if found else None))
    for codec in found:
        codec.fit(images, args.decoder_steps)
    return list(found)


def pictures(args: argparse.Namespace, images: Tensor, labels: Tensor, columns: list[Codec]) -> dict[str, list[Tensor]]:
    """Method -> decoded images, (N, 3, H, W), one tensor for each column."""
    import torch
    from figures.decode import restyled

    rows: dict[str, list[Tensor]] = {}
    size = images.shape[2:]
    for method in tqdm([NONE, *args.methods], desc='methods', leave=False):
        for codec in columns:
            torch.manual_seed(args.seed)  # the same random numbers at each stage
            maps = codec.encode(images) if method == NONE else restyled(codec, method, images, labels)
            with torch.no_grad():
                rows.setdefault(method, []).append(codec.decode(maps, size))
    return rows


def draw(out: Path, shown: Tensor, rows: dict[str, list[Tensor]], titles: list[str]) -> None:
    """Writes the PNG: for each image a block of rows, beside the input."""
    import matplotlib

    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    side_by_side = 1 + (len(shown) > 1)
    height, width = -(-len(shown) // side_by_side) * len(rows), 1 + len(titles)
    ratios = ([1.0] * width + [0.1]) * side_by_side
    size = 1.5 * sum(ratios), 1.5 * height + 0.4
    grid = {'width_ratios': ratios, 'wspace': 0.03, 'hspace': 0.03, 'left': 0.01, 'right': 1, 'bottom': 0.01}
    fig, axes = plt.subplots(
        height, len(ratios), figsize=size, squeeze=False, gridspec_kw={**grid, 'top': 1 - 0.3 / size[1]}
    )
    for ax in axes.flat:
        ax.axis('off')
    for i, image in enumerate(shown):
        top, left = i // side_by_side * len(rows), i % side_by_side * (width + 1)
        for line, (method, maps) in zip(axes[top : top + len(rows), left : left + width], rows.items(), strict=True):
            for ax, picture in zip(line[1:], maps, strict=True):
                ax.imshow(_pixels(picture[i]))
            if method == NONE:
                line[0].imshow(_pixels(image))
            else:
                line[0].text(0.95, 0.5, method.replace(':', '\n'), ha='right', va='center', fontsize=11)
        for ax, title in zip(axes[0, left:], ['input', *titles], strict=False):
            ax.set_title(title, fontsize=11)
    save_figure(fig, out, dpi=110)
    plt.close(fig)


def _pixels(image: Tensor) -> np.ndarray:
    return np.asarray((image * 255).round().byte().permute(1, 2, 0))


def run(args: argparse.Namespace) -> None:
    """Load, train decoders, restyle, draw."""
    import torch
    from figures.decode import layer_of
    from figures.pictures import Classifier, evenly, image_files, load_images

    torch.manual_seed(args.seed)
    for method in args.methods:
        layer_of(method)(256)
    files = image_files(args.images)
    files = [files[i] for i in evenly(args.limit, len(files))]
    if args.labels is not None and len(args.labels) != len(files):
        raise ValueError(f'--labels: {len(args.labels)} classes for {len(files)} images')
    if not args.out.parent.is_dir():
        raise FileNotFoundError(f'--out {args.out}: no folder {str(args.out.parent)!r}')
    classifier, images = Classifier.of(args), load_images(files, args.image_size)
    with torch.no_grad():
        logits = classifier(images)
    labels = logits.argmax(1) if args.labels is None else torch.tensor(args.labels)
    if not 0 <= labels.min() <= labels.max() < logits.shape[1]:
        raise ValueError(f'--labels: {args.model} has classes 0 to {logits.shape[1] - 1}')
    columns = codecs(args, classifier, images)
    rows = pictures(args, images, labels, columns)
    show = evenly(args.show, len(files))
    rows = {method: [maps[show] for maps in found] for method, found in rows.items()}
    draw(args.out, images[show], rows, [codec.name for codec in columns])


@command
def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    args = parse_args(argv)
    run(args)
    print(f'wrote {args.out}')


if __name__ == '__main__':
    main()
