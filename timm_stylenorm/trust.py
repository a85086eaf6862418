"""Which pickled checkpoints may be read by a torch whose `weights_only=True` does not keep code in them from running.

This is so before torch 2.6 (CVE-2025-32434). There, only safetensors files are read without a condition. A pickled file
is read, still with `weights_only=True`, if it lies in a folder that the user trusts: a folder in the environment
variable STYLENORM_TRUSTED, or the work dir of the current run. Files in torch's tar format and TorchScript archives are
never read.
"""

from __future__ import annotations

import functools
import lzma
import os
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlparse

import torch
from torch.serialization import MAP_LOCATION
from torch.torch_version import TorchVersion

VARIABLE = 'STYLENORM_TRUSTED'
SAFE_SINCE = '2.6'
# What zipfile and tarfile raise for a truncated archive, or one with wrong entries
_CUT = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, ValueError)
_own: set[Path] = set()  # folders of the runs of this process


def weights_only_is_safe() -> bool:
    """Whether this torch can safely read files that others have written."""
    return TorchVersion(torch.__version__) >= TorchVersion(SAFE_SINCE)


def trust_folder(folder: str | os.PathLike) -> None:
    """Let this process read the files in a folder of its own."""
    _own.add(Path(folder).expanduser().resolve())


def check_trusted(source: str, file: str | os.PathLike) -> None:
    """Refuse a pickled file that this torch cannot read safely.

    Args:
        source: What to call the file in the message.
        file: The file that torch is to read, or the folder into which it is downloaded; '/' if there is none.

    Raises:
        ValueError: The file is refused, and the message names the cures; or it is damaged, so that its kind is unknown.
    """
    if weights_only_is_safe():
        return
    path = Path(file).expanduser().resolve()
    try:
        kind = _runs_code(path)
    except _CUT as error:
        raise ValueError(f'cannot read {source}: damaged, cut short, or no checkpoint ({error})') from error
    if kind:
        raise ValueError(
            f'refused to load {source}: it is {kind}, which torch {torch.__version__} cannot read without running code '
            f'in it. Save its state dict with torch.save or as .safetensors, by torch >= {SAFE_SINCE}'
        )
    named = [Path(folder).expanduser().resolve() for folder in os.environ.get(VARIABLE, '').split(os.pathsep) if folder]
    if any(path.is_relative_to(folder) for folder in (*_own, *named)):
        return
    folder = path if path.is_dir() else path.parent
    raise ValueError(
        f'refused to load {source}: torch {torch.__version__} can run code that a pickled checkpoint holds, also with '
        f'weights_only=True (CVE-2025-32434). Use a .safetensors file, or torch >= {SAFE_SINCE}; if you trust where '
        f'this one comes from, name its folder: {VARIABLE}={folder}'
    )


def _runs_code(path: Path) -> str:
    """The kind of a file, if torch before 2.6 runs code in it whatever `weights_only` says; else ''."""
    if not path.is_file():
        return ''
    if tarfile.is_tarfile(path):
        return 'of the tar format of torch before 0.2'
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(Path(name).name == 'constants.pkl' for name in archive.namelist()):
                return 'a TorchScript archive'
    return ''


def refusing(read: Callable[..., object]) -> Callable[..., object]:
    """timm's reader of pickled files, which refuses files that are not trusted."""

    @functools.wraps(read)
    def torch_load(checkpoint_path: object, *args: object, **kwargs: object) -> object:
        check_trusted(str(checkpoint_path), checkpoint_path if isinstance(checkpoint_path, str | os.PathLike) else '/')
        return read(checkpoint_path, *args, **kwargs)

    return torch_load


def load_url(
    url: str,
    model_dir: str | None = None,
    map_location: MAP_LOCATION = None,
    progress: bool = True,
    check_hash: bool = False,
    file_name: str | None = None,
    weights_only: bool = True,
) -> object:
    """`torch.hub.load_state_dict_from_url` with `weights_only=True`, an argument that torch 2.1 lacks there.

    Raises:
        ValueError: This torch cannot read the file safely, and the download folder is not trusted.
    """
    if weights_only_is_safe():
        read = torch.hub.load_state_dict_from_url
        return read(url, model_dir, map_location, progress, check_hash, file_name, weights_only=True)
    folder = Path(model_dir or os.path.join(torch.hub.get_dir(), 'checkpoints'))
    check_trusted(url, folder)
    file = folder / (file_name or Path(urlparse(url).path).name)
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        found = re.search(r'-([a-f0-9]*)\.', file.name) if check_hash else None
        torch.hub.download_url_to_file(url, str(file), found[1] if found else None, progress)
    return torch.load(file, map_location=map_location, weights_only=True)
