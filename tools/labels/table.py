"""The Cityscapes label table, as GTA5 uses it, and atomic writing of PNG files.

It is kept here, not imported from cityscapesscripts, so that GTA5 and the toy streets need only numpy and Pillow. A
test compares this table with that package's.
"""

from pathlib import Path

import numpy as np
from disk import save_image
from PIL import Image

IGNORE = 255

LABELS = (  # name, label id, train id, colour; GTA5 shares ids and colours and adds 34, the license plate
    ('unlabeled', 0, IGNORE, (0, 0, 0)),
    ('ego vehicle', 1, IGNORE, (0, 0, 0)),
    ('rectification border', 2, IGNORE, (0, 0, 0)),
    ('out of roi', 3, IGNORE, (0, 0, 0)),
    ('static', 4, IGNORE, (20, 20, 20)),
    ('dynamic', 5, IGNORE, (111, 74, 0)),
    ('ground', 6, IGNORE, (81, 0, 81)),
    ('road', 7, 0, (128, 64, 128)),
    ('sidewalk', 8, 1, (244, 35, 232)),
    ('parking', 9, IGNORE, (250, 170, 160)),
    ('rail track', 10, IGNORE, (230, 150, 140)),
    ('building', 11, 2, (70, 70, 70)),
    ('wall', 12, 3, (102, 102, 156)),
    ('fence', 13, 4, (190, 153, 153)),
    ('guard rail', 14, IGNORE, (180, 165, 180)),
    ('bridge', 15, IGNORE, (150, 100, 100)),
    ('tunnel', 16, IGNORE, (150, 120, 90)),
    ('pole', 17, 5, (153, 153, 153)),
    ('polegroup', 18, IGNORE, (153, 153, 153)),
    ('traffic light', 19, 6, (250, 170, 30)),
    ('traffic sign', 20, 7, (220, 220, 0)),
    ('vegetation', 21, 8, (107, 142, 35)),
    ('terrain', 22, 9, (152, 251, 152)),
    ('sky', 23, 10, (70, 130, 180)),
    ('person', 24, 11, (220, 20, 60)),
    ('rider', 25, 12, (255, 0, 0)),
    ('car', 26, 13, (0, 0, 142)),
    ('truck', 27, 14, (0, 0, 70)),
    ('bus', 28, 15, (0, 60, 100)),
    ('caravan', 29, IGNORE, (0, 0, 90)),
    ('trailer', 30, IGNORE, (0, 0, 110)),
    ('train', 31, 16, (0, 80, 100)),
    ('motorcycle', 32, 17, (0, 0, 230)),
    ('bicycle', 33, 18, (119, 11, 32)),
    ('license plate', 34, IGNORE, (0, 0, 142)),
)
LABEL_ID = {name: label for name, label, _, _ in LABELS}
CLASSES = tuple(name for name, _, train, _ in sorted(LABELS, key=lambda row: row[2]) if train != IGNORE)

TO_TRAIN_ID = np.full(256, IGNORE, np.uint8)  # label id -> train id
TO_TRAIN_ID[[label for _, label, _, _ in LABELS]] = [train for _, _, train, _ in LABELS]

# Two names may share a colour (pole and polegroup, car and license plate): the one with a train id wins.
COLOUR_TO_ID = {colour: label for _, label, _, colour in sorted(LABELS, key=lambda row: row[2] != IGNORE)}


def gta5_palette() -> list[int]:
    """The flat palette of 256 RGB colours that a GTA5 label PNG carries."""
    colours = [channel for row in LABELS for channel in row[3]]
    return colours + [0] * (768 - len(colours))


def save_png(path: Path, array: np.ndarray, palette: list[int] | None = None) -> None:
    """Write (H, W) indices or (H, W, 3) RGB, uint8, completely or not at all."""
    image = Image.fromarray(array)
    if palette is not None:
        image.putpalette(palette)
    save_image(image, path, 'PNG', compress_level=3)
