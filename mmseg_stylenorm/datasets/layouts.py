"""A table of where data sets of street scenes keep their files, and of known defects in their releases."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Layout:
    """The folders of a data set's image/label pairs. `{split}` in a folder stands for the split's name.

    Args:
        images: Folder of the images below `data_root`; sub-folders are part of a pair's name.
        labels: Folder of the labels with train ids (0..18, 255 ignored).
        suffixes: What follows a pair's name in the file names of its image and its label.
        pairs: Splits, the default first, and how many pairs of each were released.
        cure: How to get missing files, for error messages.
        defects: By split, names of released pairs whose halves do not belong together, which are left out.
        lone_labels: By split, names of labels that were released without an image.
    """

    images: str
    labels: str
    suffixes: tuple[str, str]
    pairs: dict[str, int]
    cure: str
    defects: dict[str, tuple[str, ...]] = field(default_factory=dict)
    lone_labels: dict[str, tuple[str, ...]] = field(default_factory=dict)


# Portrait images (720x1280) whose labels, if there are any, are 1280x720 and show another view.
BDD100K_PORTRAITS = {
    'val': ('80a9e37d-e4548ac1', '9342e334-33d167eb'),
    'train': ('3d581db5-2564fb7e', '52e3fd10-c205dec2', '781756b0-61e0a182', '78ac84ba-07bd30c2'),
}
TRAIN_IDS = '_labelTrainIds.png'
LAYOUTS = {
    # Richter et al., Playing for Data, ECCV 2016, arXiv:1608.02192
    'gta5': Layout(
        'images',
        'labels',
        ('.png', TRAIN_IDS),
        {'all': 24966},
        'tools/prepare_gta5.py DATA_ROOT makes and checks the labels; with --skip-bad it writes splits/good.txt',
    ),
    # Ros et al., The SYNTHIA Dataset, CVPR 2016: SYNTHIA-RAND-CITYSCAPES
    'synthia': Layout(
        'RGB',
        'GT/LABELS',
        ('.png', TRAIN_IDS),
        {'all': 9400},
        'tools/prepare_synthia.py DATA_ROOT makes and checks the labels; with --skip-bad it writes splits/good.txt',
    ),
    # Cordts et al., CVPR 2016, arXiv:1604.01685
    'cityscapes': Layout(
        'leftImg8bit/{split}',
        'gtFine/{split}',
        ('_leftImg8bit.png', '_gtFine_labelTrainIds.png'),
        {'val': 500, 'train': 2975},
        'unpack leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip, then tools/prepare_cityscapes.py DATA_ROOT '
        'makes the labels',
    ),
    # Yu et al., CVPR 2020, arXiv:1805.04687: the 10k images, and the masks of semantic segmentation as of 2021, when
    # there were no labels for the portraits
    'bdd100k': Layout(
        'images/10k/{split}',
        'labels/sem_seg/masks/{split}',
        ('.jpg', '.png'),
        {'val': 1000, 'train': 7000},
        'unpack the 10k images and the semantic segmentation labels; an older release is the layout bdd100k_seg',
        defects=BDD100K_PORTRAITS,
        lone_labels={'val': ('ff55861e-a06b953c', 'ff7b98c7-3cb964ac')},
    ),
    'bdd100k_seg': Layout(
        'seg/images/{split}',
        'seg/labels/{split}',
        ('.jpg', '_train_id.png'),
        {'val': 1000, 'train': 7000},
        'unpack bdd100k_seg.zip; the current release is the layout bdd100k',
        defects=BDD100K_PORTRAITS,
    ),
    # Neuhold et al., ICCV 2017: the labels of version 1.2
    'mapillary': Layout(
        '{split}/images',
        '{split}/labelTrainIds',
        ('.jpg', '.png'),
        {'validation': 2000, 'training': 18000},
        'tools/prepare_mapillary.py DATA_ROOT makes and checks the labels',
    ),
    # Chen et al., No More Discrimination, ICCV 2017, arXiv:1704.08509: a city by itself; labels of the test images only
    'nthu': Layout(
        'Images/{split}',
        'Labels/{split}',
        ('.png', TRAIN_IDS),
        {'Test': 100, 'Train': 3200},
        'unpack Images/ and Labels/ of the city, then tools/prepare_nthu.py DATA_ROOT makes and checks the labels; '
        'img_suffix=".jpg" where the images are JPEGs',
    ),
    # Sakaridis et al., Guided Curriculum Model Adaptation, ICCV 2019, arXiv:1901.05946
    'dark_zurich': Layout(
        'rgb_anon/{split}/night',
        'gt/{split}/night',
        ('_rgb_anon.png', '_gt_labelTrainIds.png'),
        {'val': 50},
        'unpack Dark_Zurich_val_anon.zip',
    ),
    # Dai and Van Gool, Dark Model Adaptation, ITSC 2018, arXiv:1810.02575
    'night_driving': Layout(
        'leftImg8bit/{split}/night',
        'gtCoarse_daytime_trainvaltest/{split}/night',
        ('_leftImg8bit.png', '_gtCoarse_labelTrainIds.png'),
        {'test': 50},
        'unpack NighttimeDrivingTest.zip',
    ),
}
# Sakaridis et al., ICCV 2021, arXiv:2104.13395: each condition by itself
LAYOUTS |= {
    f'acdc_{condition}': Layout(
        f'rgb_anon/{condition}/{{split}}',
        f'gt/{condition}/{{split}}',
        ('_rgb_anon.png', '_gt_labelTrainIds.png'),
        {'val': count, 'train': 400},
        'unpack rgb_anon_trainvaltest.zip and gt_trainval.zip',
    )
    for condition, count in (('fog', 100), ('night', 106), ('rain', 100), ('snow', 100))
}
