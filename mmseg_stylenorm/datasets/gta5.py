"""GTA5 (Richter et al., Playing for Data, ECCV 2016, arXiv:1608.02192) with the 19 classes of Cityscapes."""

from typing import Any

import mmengine.fileio as fileio
from mmseg.datasets import CityscapesDataset
from mmseg.registry import DATASETS

_CURE = 'tools/prepare_gta5.py DATA_ROOT writes and checks the *{suffix} files'


@DATASETS.register_module()
class GTA5Dataset(CityscapesDataset):
    """`data_root/images/NAME.png` with train ids (0..18, 255 ignored) in `data_root/labels/NAME_labelTrainIds.png`.

    Args:
        ann_file: Optional split file with one NAME per line, relative to `data_root`; all images without one.
            `tools/prepare_gta5.py --skip-bad` writes `splits/good.txt`.
        img_suffix: What follows NAME in an image's file name.
        seg_map_suffix: What follows NAME in a label's file name.
        data_prefix: Folders of images (`img_path`) and labels (`seg_map_path`), relative to `data_root`.
        **kwargs: See mmseg's `BaseSegDataset`.

    Raises:
        FileNotFoundError: If a folder, the split file or the converted labels are missing: at construction, or with
            `lazy_init=True` when the data list is first needed.
    """

    def __init__(
        self,
        ann_file: str = '',
        img_suffix: str = '.png',
        seg_map_suffix: str = '_labelTrainIds.png',
        data_prefix: dict | None = None,
        **kwargs: Any,
    ) -> None:
        if data_prefix is None:
            data_prefix = {'img_path': 'images', 'seg_map_path': 'labels'}
        super().__init__(
            ann_file=ann_file,
            img_suffix=img_suffix,
            seg_map_suffix=seg_map_suffix,
            data_prefix=data_prefix,
            **kwargs,
        )

    def load_data_list(self) -> list[dict]:
        """List the pairs, after checking that there is something to list."""
        cure = _CURE.format(suffix=self.seg_map_suffix)
        for role, key in (('image', 'img_path'), ('label', 'seg_map_path')):
            folder = self.data_prefix.get(key)
            if folder is not None and not fileio.isdir(folder, backend_args=self.backend_args):
                raise FileNotFoundError(
                    f'GTA5Dataset: the {role} folder {folder} does not exist. Expected images/ and labels/ under '
                    f'data_root={self.data_root}; {cure}.'
                )
        if self.ann_file and not fileio.exists(self.ann_file, backend_args=self.backend_args):
            raise FileNotFoundError(
                f'GTA5Dataset: the split file {self.ann_file} does not exist. '
                'tools/prepare_gta5.py DATA_ROOT --skip-bad writes splits/good.txt; ann_file="" takes all images.'
            )
        data_list = super().load_data_list()
        if not data_list:
            where = self.ann_file or self.data_prefix['img_path']
            raise FileNotFoundError(f'GTA5Dataset: no *{self.img_suffix} image is listed in {where}.')
        label = data_list[0].get('seg_map_path')
        if label is not None and not fileio.exists(label, backend_args=self.backend_args):
            raise FileNotFoundError(f'GTA5Dataset: {label} does not exist; {cure}.')
        return data_list
