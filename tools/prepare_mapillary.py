"""Map Mapillary Vistas' 66 classes (labels of version 1.2) to the 19 of Cityscapes and check every image/label pair.

    python tools/prepare_mapillary.py data/mapillary [--mapping NAME] [--out FOLDER] [--skip-bad] [--overwrite]

For SPLIT in training and validation reads `SPLIT/images/NAME.jpg` and `SPLIT/v1.2/labels/NAME.png` (or, of older
downloads, `SPLIT/labels/NAME.png`) and writes `SPLIT/labelTrainIds/NAME.png`. `config_v1.2.json` (or `config.json`)
must list the classes of version 1.2; version 2.0 has 124. No mapping is official, and the numbers in papers depend on
the mapping used: --mapping takes `robustnet` or `rein`, or a JSON file with {"name in Vistas": "class of Cityscapes" or
null} for the entries that differ from ours. A stopped run continues where it stopped; bad pairs are listed in
`SPLIT/prepare_report.json`. --out writes everything to another folder, in case the data are read-only.
"""

import argparse
import json
import shutil
import sys
from functools import partial
from pathlib import Path

import numpy as np
from bench.runs import read_json
from cli import converter_parser
from disk import claimed, is_empty, write_text
from labels.pairs import convert, writable
from labels.reading import BadPair, Pairs, read_image
from labels.table import CLASSES, IGNORE
from mistakes import command

SPLITS = ('training', 'validation')
CONFIGS = ('config_v1.2.json', 'config.json')
NEWER, CLASSES_OF_NEWER = 'v2.0', 124
# Name of each id of version 1.2, and its class by Cityscapes' definitions: what is painted on or let into a road is
# road; bridges, tunnels, guard rails, rails, parking lots, trailers and caravans do not count there either.
CLASS_OF: dict[str, str | None] = {
    'Bird': None,
    'Ground Animal': None,
    'Curb': 'sidewalk',
    'Fence': 'fence',
    'Guard Rail': None,
    'Barrier': None,
    'Wall': 'wall',
    'Bike Lane': 'road',
    'Crosswalk - Plain': 'road',
    'Curb Cut': 'sidewalk',
    'Parking': None,
    'Pedestrian Area': 'sidewalk',
    'Rail Track': None,
    'Road': 'road',
    'Service Lane': 'road',
    'Sidewalk': 'sidewalk',
    'Bridge': None,
    'Building': 'building',
    'Tunnel': None,
    'Person': 'person',
    'Bicyclist': 'rider',
    'Motorcyclist': 'rider',
    'Other Rider': 'rider',
    'Lane Marking - Crosswalk': 'road',
    'Lane Marking - General': 'road',
    'Mountain': None,
    'Sand': 'terrain',
    'Sky': 'sky',
    'Snow': None,
    'Terrain': 'terrain',
    'Vegetation': 'vegetation',
    'Water': None,
    'Banner': None,
    'Bench': None,
    'Bike Rack': None,
    'Billboard': None,
    'Catch Basin': 'road',
    'CCTV Camera': None,
    'Fire Hydrant': None,
    'Junction Box': None,
    'Mailbox': None,
    'Manhole': 'road',
    'Phone Booth': None,
    'Pothole': 'road',
    'Street Light': 'pole',
    'Pole': 'pole',
    'Traffic Sign Frame': 'pole',
    'Utility Pole': 'pole',
    'Traffic Light': 'traffic light',
    'Traffic Sign (Back)': None,
    'Traffic Sign (Front)': 'traffic sign',
    'Trash Can': None,
    'Bicycle': 'bicycle',
    'Boat': None,
    'Bus': 'bus',
    'Car': 'car',
    'Caravan': None,
    'Motorcycle': 'motorcycle',
    'On Rails': 'train',
    'Other Vehicle': None,
    'Trailer': None,
    'Truck': 'truck',
    'Wheeled Slow': None,
    'Car Mount': None,
    'Ego Vehicle': None,
    'Unlabeled': None,
}


MAPPINGS: dict[str, dict[str, str | None]] = {  # entries that differ from the table above
    # Choi et al., CVPR 2021, arXiv:2103.15597: datasets/mapillary.py of RobustNet's code
    'robustnet': dict.fromkeys(
        (
            'Bike Lane',
            'Crosswalk - Plain',
            'Curb Cut',
            'Pedestrian Area',
            'Service Lane',
            'Lane Marking - Crosswalk',
            'Sand',
            'Catch Basin',
            'Pothole',
            'Street Light',
            'Traffic Sign Frame',
        )
    ),
    # Wei et al., CVPR 2024, arXiv:2312.04265: tools/convert_datasets/mapillary2cityscape.py of Rein's code
    'rein': {
        'Parking': 'road',
        'Sand': None,
        'Catch Basin': None,
        'Manhole': None,
        'Pothole': None,
        'Traffic Sign (Back)': 'traffic sign',
        'Traffic Sign Frame': 'traffic sign',
    },
}


def table(mapping: str | None) -> np.ndarray:
    """Train ids by id of version 1.2, uint8 (66,), for a mapping's name or a JSON file of differing entries.

    Raises:
        ValueError: A class name does not exist, or the file is not JSON.
        FileNotFoundError: There is neither a mapping nor a file with this name.
    """
    if mapping is None or mapping in MAPPINGS:
        changed = MAPPINGS.get(mapping or '', {})
    elif Path(mapping).exists():
        changed = read_json(Path(mapping))
    else:
        raise FileNotFoundError(
            f'--mapping {mapping}: no such file, and the mappings by name are {", ".join(MAPPINGS)}'
        )
    unknown = [name for name in changed if name not in CLASS_OF]
    unknown += [name for name in changed.values() if name is not None and name not in CLASSES]
    if unknown:
        raise ValueError(f'{mapping}: unknown classes {unknown[:8]}')
    return np.array([IGNORE if c is None else CLASSES.index(c) for c in (CLASS_OF | changed).values()], np.uint8)


_NEWER_ONLY = (
    'this is Vistas v2.0, whose 124 classes are not read; unpack the labels of version 1.2, SPLIT/v1.2/labels, and '
    'config_v1.2.json'
)


def check_version(root: Path) -> None:
    """Raises `FileNotFoundError` if the list of classes is missing, `ValueError` if it is not version 1.2's."""
    files = [root / name for name in CONFIGS if (root / name).is_file()]
    if not files and (root / f'config_{NEWER}.json').is_file():
        raise ValueError(f'{root} has config_{NEWER}.json only: {_NEWER_ONLY}')
    if not files:
        raise FileNotFoundError(f'{root} has neither {" nor ".join(CONFIGS)}, which tell the version of the labels')
    content = read_json(files[0])
    listed = content.get('labels')
    if not isinstance(listed, list) or not all(isinstance(label, dict) for label in listed):
        raise ValueError(f'{files[0]} has no list of labels with their names')
    names = [label.get('readable') for label in listed]
    if names != list(CLASS_OF):
        newer = f'; {_NEWER_ONLY}' if len(names) == CLASSES_OF_NEWER else ''
        raise ValueError(f'{files[0]} lists {len(names)} classes, expected the 66 of version 1.2 in their order{newer}')


def train_ids(to_train_id: np.ndarray, path: Path) -> np.ndarray:
    """The train ids (H, W) uint8 of a label whose indices are ids."""
    image = read_image(path)
    if image.mode not in ('P', 'L'):
        raise BadPair('unknown mode', f'{path}: expected a palette or grey PNG of 8 bits, got {image.mode}')
    ids = np.asarray(image)
    unknown = np.unique(ids[ids >= len(CLASS_OF)])
    if unknown.size:
        newer = '; is it a label of version 2.0?' if unknown.max() < CLASSES_OF_NEWER else ''
        known = f'expected 0..{len(CLASS_OF) - 1}'
        raise BadPair('unknown id', f'{path}: class ids {unknown.tolist()[:8]}, {known}{newer}')
    return to_train_id[ids]


def has_pairs(pairs: Pairs, root: Path) -> bool:
    """Whether there are pairs to convert."""
    try:
        found = pairs.scan(root)
    except FileNotFoundError:
        return False
    return any(pair.images[0].is_file() and pair.labels[0].is_file() for pair in found)


def convert_split(split: str, to_train_id: np.ndarray, args: argparse.Namespace) -> int:
    """Convert the labels in the folder of a split."""
    root, out = args.data_root / split, (args.out or args.data_root) / split
    if not root.is_dir():
        return _convert_split(root, out, to_train_id, args)
    writable(out)
    with claimed(out, 'a converter'):
        return _convert_split(root, out, to_train_id, args)


def _convert_split(root: Path, out: Path, to_train_id: np.ndarray, args: argparse.Namespace) -> int:
    labels = next((folder for folder in ('v1.2/labels', 'labels') if (root / folder).is_dir()), None)
    if labels is None and (root / NEWER / 'labels').is_dir():
        raise FileNotFoundError(f'{root} has {NEWER}/labels only: {_NEWER_ONLY}; older labels are kept')
    labels = labels or 'v1.2/labels'
    read = partial(train_ids, to_train_id)
    pairs = Pairs(f'Vistas {root.name}', 'images', labels, 'labelTrainIds', ('.jpg', '.png', '.png'), read)
    used = out / pairs.targets / 'mapping.json'
    mapping = json.dumps(dict(zip(CLASS_OF, to_train_id.tolist(), strict=True)))
    made = used.parent.is_dir() and not is_empty(used.parent)
    if made and not (used.is_file() and used.read_text() == mapping):
        if not args.overwrite:
            how = 'another mapping' if used.is_file() else 'a mapping that is not known'
            raise FileExistsError(f'{used.parent} was made with {how}; --overwrite replaces it')
        if not has_pairs(pairs, root):
            raise FileNotFoundError(f'{root} has no image with a label in {labels}; the old labels are kept')
        shutil.rmtree(used.parent)
    if root.is_dir():
        writable(used.parent)
        write_text(used, mapping)
    return convert(pairs, root, args.workers, args.overwrite, args.skip_bad, args.out and out)


@command
def main(argv: list[str] | None = None) -> int:
    """Run the tool; returns 0 if every pair of all splits is good, or --skip-bad leaves the bad ones out."""
    own = converter_parser(__doc__)
    own.add_argument('--mapping', metavar='NAME', help=f'{", ".join(MAPPINGS)}, or a JSON file of what shall differ')
    own.add_argument('--splits', nargs='+', choices=SPLITS, default=SPLITS)
    args = own.parse_args(argv)
    to_train_id = table(args.mapping)
    check_version(args.data_root)
    return max(convert_split(split, to_train_id, args) for split in args.splits)


if __name__ == '__main__':
    sys.exit(main())
