"""Files of data sets on disk: which of them count, how lists of them are read, and how images are shown."""

import codecs
import os
import struct
import zlib
from collections.abc import Iterable
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from PIL import Image

IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.ppm', '.tif', '.tiff')
JUNK = ('__MACOSX', '@eaDir')  # folders made by macOS in archives, and by Synology's disk stations
ORIENTATION, SWAPS_SIDES = 0x0112, (5, 6, 7, 8)  # the EXIF tag, and its values for quarter turns
# What Pillow raises for files that are damaged, empty, too large, or not images.
UNREADABLE = (
    OSError, SyntaxError, ValueError, EOFError, OverflowError, MemoryError, struct.error, zlib.error,
    Image.DecompressionBombError,
)  # fmt: skip


def is_hidden(path: str | PurePath) -> bool:
    """Whether a file below a data folder is not part of the data: `._NAME.png`, `.ipynb_checkpoints/NAME.png`, ...

    Args:
        path: Relative to the data folder.
    """
    return any(part.startswith('.') or part in JUNK for part in PurePath(path).parts)


def visible_files(folder: Path) -> list[Path]:
    """All files in a folder and its subfolders that are not hidden, sorted by path; links to folders are followed."""
    found = []
    for place, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not is_hidden(name)]
        found += [Path(place, name) for name in files if not is_hidden(name)]
    return sorted(found)


def as_rgb(image: Image.Image) -> Image.Image:
    """An image as RGB with 8 bits per channel; grey images of 16 bits are scaled, where Pillow would clip at 255."""
    if image.mode.startswith('I'):
        values = np.asarray(image)
        if image.mode != 'I' or values.max(initial=0) > 255:  # Pillow reads some files of 16 bits as 32 bits
            image = Image.fromarray((values >> 8).clip(0, 255).astype(np.uint8))
    return image.convert('RGB')


def without_suffix(name: str, suffix: str) -> str | None:
    """A name without its suffix: 'a' for 'a.PNG' and '.png', ignoring case; None if the name does not end with it."""
    return name[: len(name) - len(suffix)] if name.lower().endswith(suffix.lower()) else None


def by_name(files: Iterable[str], suffix: str) -> dict[str, list[str]]:
    """Files with a suffix, grouped by their names without it: `a.png` and `a.PNG` are in one group."""
    found: dict[str, list[str]] = {}
    for file in sorted(files):
        name = without_suffix(file, suffix)
        if name is not None:
            found.setdefault(name, []).append(file)
    return found


def decode_text(data: bytes, source: object) -> str:
    """Text as editors on any system write it: UTF-8, with or without a byte order mark, or UTF-16 with one.

    Raises:
        ValueError: The data are neither; the message names the source.
    """
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return data.decode('utf-16' if wide else 'utf-8-sig')
    except UnicodeDecodeError as error:
        raise ValueError(f'{source} is no text in UTF-8: {error}') from error


def shown_size(image: Image.Image) -> tuple[int, int]:
    """Width and height of an image rotated as its EXIF data say, which is how OpenCV loads it and viewers show it."""
    width, height = image.size
    try:
        turned = image.getexif().get(ORIENTATION) in SWAPS_SIDES
    except UNREADABLE:  # damaged EXIF data, which OpenCV ignores
        turned = False
    return (height, width) if turned else (width, height)


def drop_hidden(images: Any, root: str, renumber: bool = True) -> None:
    """Remove hidden files, and classes that are hidden folders, from an image set of timm or torchvision.

    Args:
        images: timm's reader for folders or tar files, or a folder data set of torchvision.
        root: Its folder or file.
        renumber: Whether the classes are those of the folders, not those of a class map that was passed in.

    Raises:
        FileNotFoundError: No image is left.
    """
    in_tar = hasattr(images, 'class_name_to_idx')
    known: dict[str, int] = images.class_name_to_idx if in_tar else images.class_to_idx
    paths = [sample[0].path if in_tar else os.path.relpath(sample[0], root) for sample in images.samples]
    keep = [k for k, path in enumerate(paths) if not is_hidden(path)]
    names = [name for name in sorted(known, key=lambda name: known[name]) if not (renumber and is_hidden(name))]
    if len(keep) == len(paths) and len(names) == len(known):
        return
    if not keep:
        raise FileNotFoundError(f"all images in '{root}' are hidden files, as file managers leave them")
    old = [int(images.targets[k]) if in_tar else images.samples[k][1] for k in keep]
    number = {known[name]: k if renumber else known[name] for k, name in enumerate(names)}
    targets = [number[target] for target in old]
    if in_tar:
        images.samples, images.targets = images.samples[keep], targets
        images.class_name_to_idx = {name: number[known[name]] for name in names}
        images.class_idx_to_name = {k: name for name, k in images.class_name_to_idx.items()}
        return
    images.samples = [(images.samples[k][0], target) for k, target in zip(keep, targets, strict=True)]
    images.class_to_idx = {name: number[known[name]] for name in names}
    if hasattr(images, 'classes'):  # torchvision's
        images.classes, images.targets, images.imgs = names, targets, images.samples
