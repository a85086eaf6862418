"""Street scenes with the 19 classes of Cityscapes: one data set class for all layouts."""

import os.path as osp
from collections.abc import Mapping
from functools import cache
from logging import WARNING
from pathlib import PurePath
from typing import Any

import mmengine.fileio as fileio
from mmengine.logging import print_log
from mmseg.datasets import CityscapesDataset
from mmseg.registry import DATASETS

from timm_stylenorm.datafiles import by_name, decode_text, is_hidden
from timm_stylenorm.errors import unknown

from .layouts import LAYOUTS
from .lists import SplitList
from .loading import check_sizes, decoding
from .stand_ins import item_or_stand_in


@DATASETS.register_module()
class StreetsDataset(CityscapesDataset):
    """Image/label pairs in one of the layouts of `LAYOUTS`; docs/datasets.md shows their folder trees.

    Every image must have its label and every label its image, so that an incomplete download is not mistaken for a
    small data set. `LoadTrainIds` checks the content of labels when it loads them. Pairs that are known to be defective
    in the release are left out; the log says so, and `metainfo['left_out']` holds their names. Hidden files are
    ignored, and suffixes are not case-sensitive.

    Args:
        layout: A name in `LAYOUTS`.
        split: One of the layout's splits; its first one by default.
        ann_file: Optional split file, relative to `data_root`. Each line is a pair, and its first column is the image's
            name below the image folder, or a path to it; the suffix may be left out. Without a split file, all pairs
            are used.
        ann_missing_ok: If the split file does not exist, use all pairs and say so in the log, instead of raising.
        complete: Require as many pairs as were released. Otherwise, a different number is only logged, and not even
            that if `data_prefix` is given.
        img_suffix: What follows the name in an image's file name, if it differs from the layout's.
        seg_map_suffix: Likewise for the label.
        data_prefix: Folders of images (`img_path`) and labels (`seg_map_path`), relative to `data_root`, if they differ
            from the layout's. Without `seg_map_path` there are no labels, as for the target of an adaptation.
        **kwargs: See mmseg's `BaseSegDataset`.

    Raises:
        ValueError: The layout or split is unknown, or `complete` is set and not all released pairs were found.
        FileNotFoundError: A folder, the split file, or one half of a pair is missing. Raised at construction, or with
            `lazy_init=True` when the data list is first needed.
    """

    ann_file: str  # set by mmengine, which prepends data_root

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
        self.keep_going = False  # see `item_or_stand_in`
        super().__init__(
            ann_file=ann_file,
            img_suffix=img_suffix or known.suffixes[0],
            seg_map_suffix=seg_map_suffix or known.suffixes[1],
            data_prefix=data_prefix,
            **kwargs,
        )
        check_sizes(self.pipeline)

    def load_data_list(self) -> list[dict]:
        """Return the pairs, after checking that they are complete."""
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
            names, labels = self._without_defects(names, images, labels)
            self._check_pairs(names, images, labels)
        if not self.ann_file:
            self._check_count(len(names), labels is not None)
        common = {'label_map': self.label_map, 'reduce_zero_label': self.reduce_zero_label}
        files = [self._files(images[name], None if labels is None else labels[name]) for name in names]
        return [{**file, **common, 'seg_fields': []} for file in files]

    def prepare_data(self, idx: int) -> Any:
        """Return a sample; decoding errors name the image."""
        with decoding(lambda: self.get_data_info(idx)['img_path'], self.backend_args):
            return super().prepare_data(idx)

    def __getitem__(self, idx: int) -> Any:
        """Return a sample; if it cannot be read and `keep_going` is set, return another one in its place."""
        return item_or_stand_in(self, super().__getitem__, idx)

    def _files(self, image: str, label: str | None) -> dict[str, str]:
        files = {'img_path': osp.join(self.data_prefix['img_path'], image)}
        if label is not None:
            files['seg_map_path'] = osp.join(self.data_prefix['seg_map_path'], label)
        return files

    def _missing(self, what: str) -> FileNotFoundError:
        return FileNotFoundError(f'{self.layout}: {what}; {LAYOUTS[self.layout].cure}; see docs/datasets.md')

    def _names(self, key: str, suffix: str) -> dict[str, str]:
        """Return the files with this suffix in a folder and its sub-folders, by their names without the suffix."""
        folder = self.data_prefix[key]
        if not fileio.isdir(folder, backend_args=self.backend_args):
            raise self._missing(f'the folder {folder} does not exist')
        files = fileio.list_dir_or_file(folder, False, True, recursive=True, backend_args=self.backend_args)
        found = by_name((PurePath(file).as_posix() for file in files if not is_hidden(file)), suffix)
        for same in found.values():
            if len(same) > 1:
                raise ValueError(f'{self.layout}: {" and ".join(same)} in {folder} have one name; keep one of them')
        return {name: file for name, (file,) in found.items()}

    def _listed(self, images: Mapping[str, str]) -> list[str]:
        """Return the names in the split file, each of which must have an image."""
        if not fileio.exists(self.ann_file, backend_args=self.backend_args):
            raise self._missing(f'the split file {self.ann_file} does not exist, and ann_file="" takes all images')
        text = decode_text(fileio.get(self.ann_file, backend_args=self.backend_args), self.ann_file)
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        folder = self.data_prefix['img_path']
        below = folder.removeprefix(self.data_root or '') if folder.startswith(self.data_root or '') else ''
        split = SplitList(images, self.img_suffix, below or osp.basename(folder))
        names = [split.find(line) for line in lines]
        absent = [line for line, name in zip(lines, names, strict=True) if name is None]
        if absent:
            near = split.elsewhere(absent[0])
            hint = f'; one of that name is {near}, and not in the folder of the list' if near else ''
            what = f'{len(absent)} of the {len(lines)} images in {self.ann_file} are not in {folder}: {_few(absent)}'
            raise self._missing(what + hint)
        return [name for name in names if name is not None]

    def _without_defects(
        self, names: list[str], images: Mapping[str, str], labels: Mapping[str, str]
    ) -> tuple[list[str], dict[str, str]]:
        """Return names and labels without the pairs that are known to be defective."""
        known = LAYOUTS[self.layout]
        defects, lone = known.defects.get(self.split, ()), known.lone_labels.get(self.split, ())
        left_out = [name for name in names if name in defects]
        lone = () if self.ann_file else tuple(name for name in lone if name in labels and name not in images)
        if left_out or lone:
            self._metainfo['left_out'] = [*left_out, *lone]
            what = f'{len(left_out)} pairs that do not belong together as released' if left_out else ''
            also = f'{len(lone)} labels that were released without an image' if lone else ''
            some = ', '.join([*left_out, *lone])
            _say_once(f'{self.layout} {self.split}: left out {" and ".join(filter(None, (what, also)))}: {some}')
        dropped = {*defects, *lone}
        return [n for n in names if n not in dropped], {n: file for n, file in labels.items() if n not in dropped}

    def _check_pairs(self, names: list[str], images: Mapping[str, str], labels: Mapping[str, str]) -> None:
        lone = [name + self.seg_map_suffix for name in names if name not in labels]
        if lone:
            folder = self.data_prefix['seg_map_path']
            raise self._missing(f'{len(lone)} of {len(names)} images have no label in {folder}: {_few(lone)}')
        lone = [] if self.ann_file else [name + self.img_suffix for name in labels if name not in images]
        if lone:
            folder = self.data_prefix['img_path']
            raise self._missing(
                f'{len(lone)} of {len(labels)} labels have no image in {folder}: {_few(lone)}; is the download whole? '
                'ann_file takes a list of the pairs to use'
            )

    def _check_count(self, found: int, labelled: bool) -> None:
        known = LAYOUTS[self.layout]
        released = known.pairs[self.split]
        defects = len(known.defects.get(self.split, ())) if labelled else 0
        if found == released - defects or (self.own_folders and not self.complete):
            return
        said = f'{self.layout} {self.split}: {found} images in {self.data_prefix["img_path"]}, {released} were released'
        among = f'; {defects} of those are known to be defective, and left out' if defects else ''
        if self.complete:
            raise ValueError(f'{said}; is the download whole? complete=False takes what is there{among}')
        print_log(said + among, 'current', WARNING)


@cache
def _say_once(text: str) -> None:
    print_log(text, 'current', WARNING)


def _few(names: list[str]) -> str:
    return ', '.join(names[:3]) + (', ...' if len(names) > 3 else '')


@DATASETS.register_module()
class GTA5Dataset(StreetsDataset):
    """`StreetsDataset` with the layout 'gta5': `images/NAME.png` and `labels/NAME_labelTrainIds.png`.

    Args:
        ann_file: See `StreetsDataset`. Lists of the official split or of other projects can be used unchanged.
        **kwargs: See `StreetsDataset`.
    """

    def __init__(self, ann_file: str = '', **kwargs: Any) -> None:
        super().__init__('gta5', ann_file=ann_file, **kwargs)
