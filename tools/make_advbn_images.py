"""Writes a copy of an image folder with images disturbed by AdvBN, as ImageNet-AdvBN is a copy of ImageNet.

    python tools/make_advbn_images.py IMAGES OUT --checkpoint FILE [--styliser-encoder FILE --styliser-decoder FILE]

The features of a batch are disturbed in the direction that raises the loss of a classifier (Shu et al., NeurIPS 2021,
arXiv:2009.08965), and decoded back to pixels. They are taken after a stage of the classifier, with a decoder that is
trained on the spot, or from the AdaIN styliser's VGG-19 (relu4_1). The copy has the same tree and names; its images are
squares of --image-size pixels. To resume, start the same command again: finished images are not made again.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from bench.runs import fingerprint, read_json, write_json
from cli import COUNT, parse_pictures, picture_parser
from disk import claimed, is_empty, save_image
from mistakes import command
from PIL import Image
from tqdm import tqdm

if TYPE_CHECKING:
    from figures.decode import Codec, StageCodec
    from figures.pictures import Classifier
    from torch import Tensor

MARK = 'advbn_images.json'  # in the copy: the settings with which it was made
DECODER = 'advbn_decoder.pth'
MAY_DIFFER = ('out',)  # arguments that do not change an image


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    own = picture_parser(__doc__)
    own.add_argument('out', type=Path, help='folder of the copy')
    own.add_argument('--stage', default='stage1', help='the cut (default: %(default)s)')
    own.add_argument('--advbn', default='advbn', metavar='advbn:K=V,K=V', help="e.g. 'advbn:steps=3,eps=0.5'")
    own.add_argument('--batch-size', type=COUNT, default=32, help='images that share their noise')
    own.add_argument('--fit-images', type=COUNT, default=64, help='so many, evenly chosen, train the decoder')
    own.add_argument(
        '--folder-labels', action='store_true', help="classes are the images' folders, sorted, not predictions"
    )
    return parse_pictures(own, argv)


def check_place(args: argparse.Namespace) -> None:
    """Raises a ValueError if the copy would lie within the images' folder, or the other way round."""
    source, out = args.images.resolve(), args.out.resolve()
    if source == out or source in out.parents or out in source.parents:
        raise ValueError(f'{args.images} and {args.out} must lie beside each other')


def own_folder(args: argparse.Namespace, files: list[Path]) -> None:
    """Make the folder of the copy, or check that it holds the same copy, possibly unfinished.

    Raises:
        FileExistsError: The folder holds something else.
    """
    source, out = args.images.resolve(), args.out.resolve()
    settings = {k: v for k, v in vars(args).items() if k not in MAY_DIFFER} | {'images': str(source)}
    print_ = fingerprint({**settings, 'files': [str(f.relative_to(args.images)) for f in files]})
    mark = out / MARK
    if mark.is_file():
        before = read_json(mark)
        if before['fingerprint'] != print_:
            old = before['settings']
            differ = [k for k, v in settings.items() if str(old.get(k)) != str(v)] or ['the files']
            raise FileExistsError(
                f'{args.out} was made with other settings ({", ".join(differ)}); choose another folder'
            )
        return
    if out.exists() and not is_empty(out):
        raise FileExistsError(f'{args.out} is not empty, and not made by this tool (no {MARK}); choose another folder')
    write_json(mark, {'fingerprint': print_, 'settings': {k: str(v) for k, v in settings.items()}})


def codec_of(args: argparse.Namespace, classifier: Classifier) -> Codec:
    """The codec of the styliser, or of the stage, whose decoder is not trained yet."""
    from figures.decode import StageCodec, StyliserCodec

    if args.styliser_encoder is not None:
        return StyliserCodec(classifier, args.styliser_encoder, args.styliser_decoder)
    return StageCodec(classifier, args.stage)


def train(args: argparse.Namespace, codec: StageCodec, files: list[Path]) -> None:
    """Train the decoder, or load the one of an earlier start."""
    import torch
    from figures.pictures import evenly, load_images

    from timm_stylenorm.checkpoints import read_state_dict, save_atomic

    torch.manual_seed(args.seed)
    file = args.out / DECODER
    images = load_images([files[i] for i in evenly(args.fit_images, len(files))], args.image_size)
    codec.fit(images, 0 if file.is_file() else args.decoder_steps)
    if file.is_file():
        codec.decoder.load_state_dict(read_state_dict(file))
        return
    save_atomic(codec.decoder.state_dict(), file)


def folder_labels(args: argparse.Namespace, files: list[Path], classifier: Classifier) -> dict[Path, int]:
    """File -> index of its folder.

    Raises:
        ValueError: There are more folders than the classifier has classes.
    """
    folders = {folder: i for i, folder in enumerate(sorted({f.parent for f in files}))}
    classes = getattr(classifier.model, 'num_classes', len(folders))
    if len(folders) > classes:
        raise ValueError(f'--folder-labels: {len(folders)} folders, and {args.model} has {classes} classes')
    return {f: folders[f.parent] for f in files}


def write_image(image: Tensor, file: Path) -> None:
    """Write an image in the format of the file's suffix, completely or not at all."""
    from torchvision.transforms.functional import to_pil_image

    form = Image.registered_extensions()[file.suffix.lower()]
    save_image(to_pil_image(image), file, form, **({'quality': 95} if form in ('JPEG', 'WEBP') else {}))


def disturbed(args: argparse.Namespace, codec: Codec, images: Tensor, labels: Tensor | None) -> Tensor:
    """A batch of images in [0, 1] after AdvBN; without labels, the classifier's predictions are used."""
    import torch
    from figures.decode import restyled

    with torch.no_grad():
        labels = codec.classifier(images).argmax(1) if labels is None else labels
    maps = restyled(codec, args.advbn, images, labels)
    with torch.no_grad():
        return codec.decode(maps, images.shape[2:])


def run(args: argparse.Namespace) -> int:
    """Make or finish the copy; returns how many images were written."""
    from figures.decode import layer_of
    from figures.pictures import Classifier, image_files

    if args.advbn.partition(':')[0] != 'advbn':
        raise ValueError(f"--advbn: expected 'advbn' and arguments of its layer, got {args.advbn!r}")
    layer_of(args.advbn)(1)
    files = image_files(args.images)
    classifier = Classifier.of(args)
    classes = folder_labels(args, files, classifier) if args.folder_labels else {}
    codec = codec_of(args, classifier)
    check_place(args)
    with claimed(args.out, 'this tool', 'choose another folder'):
        own_folder(args, files)
        return fill(args, codec, files, classes)


def fill(args: argparse.Namespace, codec: Codec, files: list[Path], classes: dict[Path, int]) -> int:
    """Makes the images that do not exist yet; returns their number."""
    import torch
    from figures.decode import StageCodec
    from figures.pictures import load_images

    if isinstance(codec, StageCodec):
        train(args, codec, files)
    order = torch.randperm(len(files), generator=torch.Generator().manual_seed(args.seed)).split(args.batch_size)
    written = 0
    with tqdm(total=len(files), desc='images') as bar:
        for batch in order:
            some = [files[i] for i in batch]
            targets = [args.out / f.relative_to(args.images) for f in some]
            left = [i for i, target in enumerate(targets) if not target.is_file()]
            if left:  # the whole batch, since the noise depends on it
                labels = torch.tensor([classes[f] for f in some]) if classes else None
                made = disturbed(args, codec, load_images(some, args.image_size), labels)
                for i in left:
                    write_image(made[i], targets[i])
            written += len(left)
            bar.update(len(some))
    return written


@command
def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    args = parse_args(argv)
    written = run(args)
    print(f'wrote {written} images into {args.out}')


if __name__ == '__main__':
    main()
