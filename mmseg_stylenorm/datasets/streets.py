"""Street scenes with the 19 classes of Cityscapes: one data set class, and the layouts it knows as a table."""

import os.path as osp
from collections.abc import Collection
from dataclasses import dataclass
from logging import WARNING
from typing import Any

import mmengine.fileio as fileio
from mmengine import list_from_file
from mmengine.logging import print_log
from mmseg.datasets import CityscapesDataset
from mmseg.registry import DATASETS

from timm_stylenorm.errors import unknown


@dataclass(frozen=True)
class Layout:
    """Where a data set keeps its image/label pairs. `{split}` in a folder stands for the split's name.

    Args:
        images: Folder of the images below `data_root`; sub-folders belong to the names.
        labels: Folder of the labels with train ids (0..18, 255 ignored).
        suffixes: What follows a pair's name in the files of its image and its label.
        pairs: Splits, the default first, and how many pairs of each were released.
        cure: How to get what is missing.
    """

    images: str
    labels: str
    suffixes: tuple[str, str]
    pairs: dict[str, int]
    cure: str


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
    # Yu et al., CVPR 2020, arXiv:1805.04687: the 10k images, and the masks of semantic segmentation
    'bdd100k': Layout(
        'images/10k/{split}',
        'labels/sem_seg/masks/{split}',
        ('.jpg', '.png'),
        {'val': 1000, 'train': 7000},
        'unpack the 10k images and the semantic segmentation labels; an older release is the layout bdd100k_seg',
    ),
    'bdd100k_seg': Layout(
        'seg/images/{split}',
        'seg/labels/{split}',
        ('.jpg', '_train_id.png'),
        {'val': 1000, 'train': 7000},
        'unpack bdd100k_seg.zip; the current release is the layout bdd100k',
    ),
    # Neuhold et al., ICCV 2017: the labels of version 1.2
    'mapillary': Layout(
        '{split}/images',
        '{split}/labelTrainIds',
        ('.jpg', '.png'),
        {'validation': 2000, 'training': 18000},
        'tools/prepare_mapillary.py DATA_ROOT makes and checks the labels',
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


@DATASETS.register_module()
class StreetsDataset(CityscapesDataset):
    """Image/label pairs in one of the layouts above; docs/datasets.md shows them as trees.

    Every image must have its label and every label its image, so that half a download does not pass for a small data
    set. What the labels hold is checked by `LoadTrainIds` when they are loaded.

    Args:
        layout: A name in `LAYOUTS`.
        split: One of the layout's splits; its first one by default.
        ann_file: Optional split file, relative to `data_root`: a pair in each line, whose first column is the image's
            name below its folder, or a path to it; the image's suffix may be left out. All pairs without one.
        ann_missing_ok: Take all pairs where there is no such file, and say so in the log, instead of raising.
        complete: Insist on as many pairs as were released. Otherwise another number is only logged, unless the
            folders are not the layout's.
        img_suffix: What follows the name in an image's file name, if not the layout's.
        seg_map_suffix: Likewise of the label.
        data_prefix: Folders of images (`img_path`) and labels (`seg_map_path`), relative to `data_root`, if not the
            layout's. Without `seg_map_path` there are no labels, as for the target of an adaptation.
        **kwargs: See mmseg's `BaseSegDataset`.

    Raises:
        ValueError: An unknown layout or split; not all that was released, where `complete`.
        FileNotFoundError: A folder, the split file, or one half of a pair is missing: at construction, or with
            `lazy_init=True` when the data list is first needed.
    """

    ann_file: str  # mmengine's, below data_root

    def __init__(
        self,
        layout: str,
        split: str | None = None,
        ann_file: str = '',
        ann_missing_ok: bool = False,
        complete: bool = False,
        img_suffix: str | None = None,
        seg_map_suffix: str | None = None,
        data_prefix: dict | None = None,
        **kwargs: object,
    ) -> None:
        if layout not in LAYOUTS:
            raise ValueError(unknown('layout', layout, LAYOUTS))
        self.layout, self.complete, known = layout, complete, LAYOUTS[layout]
        self.ann_missing_ok = ann_missing_ok
        self.split = split or next(iter(known.pairs))
        if self.split not in known.pairs:
            raise ValueError(f'{layout}: {unknown("split", split, known.pairs)}')
        self.own_folders = data_prefix is not None
        if data_prefix is None:
            data_prefix = {'img_path': known.images, 'seg_map_path': known.labels}
            data_prefix = {key: folder.format(split=self.split) for key, folder in data_prefix.items()}
        super().__init__(
            ann_file=ann_file,
            img_suffix=img_suffix or known.suffixes[0],
            seg_map_suffix=seg_map_suffix or known.suffixes[1],
            data_prefix=data_prefix,
            **kwargs,
        )

    def load_data_list(self) -> list[dict]:
        """The pairs, after checking that they are pairs."""
        images = self._names('img_path', self.img_suffix)
        if self.ann_file and self.ann_missing_ok and not fileio.exists(self.ann_file, backend_args=self.backend_args):
            print_log(f'{self.layout}: there is no {self.ann_file}; all {len(images)} images are taken', 'current')
            self.ann_file = ''
        labels = self._names('seg_map_path', self.seg_map_suffix) if self.data_prefix.get('seg_map_path') else None
        names = self._listed(images) if self.ann_file else sorted(images)
        if not names:
            where = self.ann_file or self.data_prefix['img_path']
            raise self._missing(f'no *{self.img_suffix} image is listed in {where}')
        if labels is not None:
            self._check_pairs(names, labels)
        if not self.ann_file:
            self._check_count(len(names))
        common = {'label_map': self.label_map, 'reduce_zero_label': self.reduce_zero_label}
        return [{**self._files(name, labels is not None), **common, 'seg_fields': []} for name in names]

    def _files(self, name: str, labelled: bool) -> dict[str, str]:
        files = {'img_path': osp.join(self.data_prefix['img_path'], name + self.img_suffix)}
        if labelled:
            files['seg_map_path'] = osp.join(self.data_prefix['seg_map_path'], name + self.seg_map_suffix)
        return files

    def _missing(self, what: str) -> FileNotFoundError:
        return FileNotFoundError(f'{self.layout}: {what}; {LAYOUTS[self.layout].cure}; see docs/datasets.md')

    def _names(self, key: str, suffix: str) -> set[str]:
        """Names of the files in a folder and below, without the suffix that all of them have."""
        folder = self.data_prefix[key]
        if not fileio.isdir(folder, backend_args=self.backend_args):
            raise self._missing(f'the folder {folder} does not exist')
        files = fileio.list_dir_or_file(folder, False, True, suffix, recursive=True, backend_args=self.backend_args)
        return {file.removesuffix(suffix) for file in files}

    def _listed(self, images: Collection[str]) -> list[str]:
        """The names in the split file, each of which must have its image."""
        if not fileio.exists(self.ann_file, backend_args=self.backend_args):
            raise self._missing(f'the split file {self.ann_file} does not exist, and ann_file="" takes all images')
        lines = list_from_file(self.ann_file, backend_args=self.backend_args)
        entries = [line.split()[0].removesuffix(self.img_suffix) for line in lines if line.strip()]
        bare = {osp.basename(image): image for image in images}
        names = [entry if entry in images else bare.get(osp.basename(entry), '') for entry in entries]
        absent = [entry for entry, name in zip(entries, names, strict=True) if not name]
        if absent:
            raise self._missing(
                f'{len(absent)} of the {len(entries)} images in {self.ann_file} are not in '
                f'{self.data_prefix["img_path"]}: {_few(absent)}'
            )
        return names

    def _check_pairs(self, names: list[str], labels: set[str]) -> None:
        lone = [name + self.seg_map_suffix for name in names if name not in labels]
        if lone:
            folder = self.data_prefix['seg_map_path']
            raise self._missing(f'{len(lone)} of {len(names)} images have no label in {folder}: {_few(lone)}')
        lone = [] if self.ann_file else [name + self.img_suffix for name in sorted(labels.difference(names))]
        if lone:
            folder = self.data_prefix['img_path']
            raise self._missing(
                f'{len(lone)} of {len(labels)} labels have no image in {folder}: {_few(lone)}; is the download whole? '
                'ann_file takes a list of the pairs to use'
            )

    def _check_count(self, found: int) -> None:
        released = LAYOUTS[self.layout].pairs[self.split]
        if found == released or (self.own_folders and not self.complete):
            return
        said = f'{self.layout} {self.split}: {found} images in {self.data_prefix["img_path"]}, {released} were released'
        if self.complete:
            raise ValueError(f'{said}; is the download whole? complete=False takes what is there')
        print_log(said, 'current', WARNING)


def _few(names: list[str]) -> str:
    return ', '.join(names[:3]) + (', ...' if len(names) > 3 else '')


@DATASETS.register_module()
class GTA5Dataset(StreetsDataset):
    """`StreetsDataset` with the layout 'gta5': `images/NAME.png` and `labels/NAME_labelTrainIds.png`.

    Args:
        ann_file: See `StreetsDataset`. The lists of the official split, or those of other projects, go in as they are.
        **kwargs: See `StreetsDataset`.
    """

    def __init__(self, ann_file: str = '', **kwargs: Any) -> None:
        super().__init__('gta5', ann_file=ann_file, **kwargs)
