"""Shows what models look at: stylenorm explain MODEL... --images FOLDER --out cams.png, by Grad-CAM and its relatives.

Rows are images, columns the input and the models, each with a map of where it sees a class: the predicted one, the
right one (--target label), or any other (--target 'golden retriever'). MODEL is as for `stylenorm evaluate`, or a
segmentor, CONFIG.py=CHECKPOINT, for which the target is the mean logit of a class over the pixels that are predicted as
this class. The right classes are given by class folders (FOLDER/CLASS/*.jpg; WordNet ids, numbers, or one for each
output) or by --labels.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cli import COUNT, network_arguments
from mistakes import command

if TYPE_CHECKING:
    from collections.abc import Sequence

    from figures.cams import Panel
    from networks import Network
    from torch import Tensor


@dataclass(frozen=True)
class Picture:
    """An image.

    Attributes:
        file: Its path.
        folder: Name of its class's folder; '' if it is in none.
        root: The folder that holds the class folders.
    """

    file: Path
    folder: str
    root: Path


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    own = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    network_arguments(own)
    own.add_argument('--images', type=Path, nargs='+', required=True, metavar='PATH', help='files, and folders of them')
    own.add_argument('--out', type=Path, default=Path('explain.png'), metavar='PNG', help='default: explain.png')
    own.add_argument('--cam', default='gradcam', help='gradcam, gradcam++ or layercam; default: gradcam')
    own.add_argument('--layer', help='a stage or a module, see `stylenorm sites MODEL`; default: the last stage')
    own.add_argument(
        '--target', default='predicted', metavar='CLASS', help="predicted, label, or a class's name or number"
    )
    own.add_argument('--labels', nargs='+', metavar='CLASS', help='of each image; default: the folder of its class')
    own.add_argument('--show', type=COUNT, default=8, help='so many images, evenly chosen; default: 8')
    return own.parse_args(argv)


def pictures(args: argparse.Namespace) -> tuple[list[Picture], list[str]]:
    """The images to show, and their labels as given with --labels."""
    from figures.pictures import evenly, image_files

    found: list[Picture] = []
    for path in args.images:
        if path.is_file():
            found.append(Picture(path, path.parent.name, path.parent.parent))
        else:
            files = image_files(path)
            found += [Picture(file, file.parent.name if file.parent != path else '', path) for file in files]
    if args.labels is not None and len(args.labels) != len(found):
        raise ValueError(f'--labels: {len(args.labels)} classes for {len(found)} images')
    chosen = evenly(args.show, len(found))
    return [found[i] for i in chosen], [args.labels[i] for i in chosen] if args.labels else []


def labels_of(shown: Sequence[Picture], given: Sequence[str], network: Network, outputs: int) -> list[int] | None:
    """The right output of a network for each image; None if they are not known."""
    from networks import class_number

    from timm_stylenorm.evaluation.images import folders_in
    from timm_stylenorm.evaluation.labels import folder_indices

    if given:
        return [class_number(word, network.classes, outputs) for word in given]
    roots = {picture.root for picture in shown}
    if len(roots) > 1 or not all(picture.folder for picture in shown):
        return None
    root = roots.pop()
    folders = tuple(folders_in(root))
    try:
        numbers = dict(zip(folders, folder_indices(folders, outputs, root), strict=True))
    except ValueError:  # the folders are not classes, but for example domains
        return None
    return [numbers[picture.folder] for picture in shown] if {p.folder for p in shown} <= {*numbers} else None


def panel(network: Network, shown: Sequence[Picture], given: Sequence[str], i: int, args: argparse.Namespace) -> Panel:
    """The i-th image with the network's activation map of its target."""
    import torch
    from figures.cams import Panel
    from networks import class_number

    from timm_stylenorm.evaluation.cams import activation_maps

    image = network.read(shown[i].file)
    inputs = network.inputs(image[None])
    with torch.no_grad():
        logits = network.model(inputs)[0]
    said, shares = prediction(logits)
    labels = labels_of(shown, given, network, len(shares))
    if args.target == 'label' and labels is None:
        raise ValueError('--target label: the labels are not known; give --labels, or a folder with folders of classes')
    label = None if labels is None else labels[i]
    known = {'predicted': said, 'label': label}
    target = known[args.target] if args.target in known else class_number(args.target, network.classes, len(shares))
    (heat,) = activation_maps(network.model, inputs, [target], args.layer, args.cam, network.part)
    said = said if logits.dim() == 1 else target  # for a segmentation, show the share of the target's pixels
    right = None if label is None else network.class_name(label)
    other = None if target == said else network.class_name(target)
    return Panel(image.numpy(), heat, network.class_name(said), float(shares[said]), right, other)


def prediction(logits: Tensor) -> tuple[int, Tensor]:
    """The predicted class and all probabilities of logits (K,); for (K, h, w) the most frequent class, all shares."""
    import torch

    if logits.dim() == 1:
        return int(logits.argmax()), logits.softmax(0)
    shares = torch.bincount(logits.argmax(0).flatten(), minlength=len(logits)) / logits[0].numel()
    return int(shares.argmax()), shares


@command
def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    args = parse_args(argv)
    from figures.cams import draw
    from networks import networks
    from tqdm import tqdm

    if not args.out.parent.is_dir():
        raise FileNotFoundError(f'--out {args.out}: no folder {str(args.out.parent)!r}')
    shown, given = pictures(args)
    found = networks(args)
    rows = tqdm(range(len(shown)), desc='images', leave=False, disable=None)
    columns = zip(*([panel(network, shown, given, i, args) for network in found] for i in rows), strict=True)
    draw(args.out, [network.name for network in found], list(columns))
    print(f'wrote {args.out}')


if __name__ == '__main__':
    main()
