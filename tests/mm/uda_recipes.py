"""FADA's and MaxSquare's configs by short names, and pictures of the data sets at their true size."""

import numpy as np
from mmengine.config import Config
from mmengine.registry import init_default_scope
from PIL import Image

import mmseg_stylenorm  # noqa: F401 (registers)
from timm_stylenorm.runner.configs import config_root

NAME = 'segmentation/deeplabv2_r101-d8_{}.py'
SOURCE_FADA, FADA = '4xb2-20k_gtav2cityscapes-1280x720', 'fada_4xb1-40k_gtav2cityscapes-1280x720'
SOURCE, MAXSQUARE = '1xb1-80k_gtav2cityscapes-1280x720', 'maxsquare_1xb1-30k_gtav2cityscapes-1280x720'
MULTI = 'iw-maxsquare-multi_1xb1-30k_gtav2cityscapes-1280x720'
SYNTHIA = 'maxsquare_1xb1-30k_synthia2cityscapes-1280x760'
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])  # RGB, of FADA
BGR_MEAN = np.array([104.00698793, 116.66876762, 122.67891434])  # of MaxSquare


def load(name):
    init_default_scope('mmseg')
    return Config.fromfile(config_root() / NAME.format(name))


def write_streets(root):
    """Two pictures of GTA5 and SYNTHIA, one of Cityscapes' training and validation sets, with labels."""
    rng = np.random.default_rng(0)

    def write(file, width, height, high, *channels):
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        small = Image.fromarray(rng.integers(0, high, (height // 40, width // 40, *channels), np.uint8))
        small.resize((width, height), Image.BICUBIC if channels else Image.NEAREST).save(path, compress_level=1)

    for k in range(2):
        for folder, images, labels, size in (
            ('gta5', 'images', 'labels', (1914, 1052)),
            ('synthia', 'RGB', 'GT/LABELS', (1280, 760)),
        ):
            write(f'{folder}/{images}/{k}.png', *size, 256, 3)
            write(f'{folder}/{labels}/{k}_labelTrainIds.png', *size, 19)
    for split in ('train', 'val'):
        write(f'cityscapes/leftImg8bit/{split}/t/0_leftImg8bit.png', 2048, 1024, 256, 3)
        write(f'cityscapes/gtFine/{split}/t/0_gtFine_labelTrainIds.png', 2048, 1024, 19)


def expected(file, size, name):
    """The picture as the authors' code makes it: Pillow's bicubic, then its normalisation."""
    rgb = np.asarray(Image.open(file).convert('RGB').resize(size, Image.BICUBIC), np.float64)
    if name in (SOURCE_FADA, FADA):
        return (rgb / 255 - MEAN) / STD
    return rgb[..., ::-1] - BGR_MEAN
