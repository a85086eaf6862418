"""Where the shipped configs are: in the source tree, or inside the wheel."""

from collections.abc import Iterable
from pathlib import Path

from ..errors import unknown

_PACKAGES = Path(__file__).resolve().parents[2]


def config_root() -> Path:
    """The folder `configs/`.

    Raises:
        FileNotFoundError: neither the source tree nor the installed package holds it.
    """
    places = [_PACKAGES / 'configs', _PACKAGES / 'mmseg_stylenorm' / '.mim' / 'configs']
    for place in places:
        if (place / '_base_').is_dir():
            return place
    raise FileNotFoundError(f'no configs: looked in {", ".join(map(str, places))}; reinstall stylenorm')


def list_configs() -> list[str]:
    """Names of the shipped configs, relative to `config_root()`."""
    root = config_root()
    names: Iterable[Path] = (path.relative_to(root) for path in root.rglob('*.py'))
    return sorted(str(name) for name in names if name.parts[0] != '_base_')


def find_config(name: str) -> str:
    """A config by path, or by its name below `configs/` (`segmentation/x.py`, `configs/segmentation/x.py`, `x`).

    Raises:
        FileNotFoundError: there is no such config; the message names the nearest shipped ones.
        IsADirectoryError: `name` is a folder.
    """
    if Path(name).is_file():
        return name
    if Path(name).is_dir():
        raise IsADirectoryError(f'{name!r} is a folder, not a config; `stylenorm configs` lists those shipped')
    known = list_configs()
    wanted = name.removeprefix('configs/')
    wanted = wanted if wanted.endswith('.py') else f'{wanted}.py'
    hits = [config for config in known if config == wanted or Path(config).name == wanted]
    if len(hits) == 1:
        return str(config_root() / hits[0])
    raise FileNotFoundError(f'there is no file {name!r}; {unknown("config", wanted, known, "stylenorm configs")}')
