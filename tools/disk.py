"""timm_stylenorm/files.py for tools that start without torch, which importing the package itself would load."""

import importlib.util
import io
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # so that a source tree works without being installed

PACKAGE = 'timm_stylenorm'


def standalone(name: str) -> ModuleType:
    """A module of the package that needs no other part of it, loaded once per process under its own name."""
    full = f'{PACKAGE}.{name}'
    if full in sys.modules:
        return sys.modules[full]
    package = importlib.util.find_spec(PACKAGE)
    if package is None or not package.submodule_search_locations:
        raise ModuleNotFoundError(f'{PACKAGE} is neither installed nor in {sys.path[0]}')
    file = Path(package.submodule_search_locations[0], f'{name}.py')
    spec = importlib.util.spec_from_file_location(full, file)
    module = sys.modules[full] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


files = standalone('files')
atomic_write, claimed, is_empty = files.atomic_write, files.claimed, files.is_empty


def write_text(file: Path, text: str) -> None:
    """Writes text as UTF-8, completely or not at all."""
    with atomic_write(file) as part:
        part.write_text(text, encoding='utf-8')


def save_figure(figure: Any, file: Path, dpi: int) -> None:
    """Writes a matplotlib figure as PNG, completely or not at all."""
    with atomic_write(file) as part:
        figure.savefig(part, format='png', dpi=dpi)


def save_image(image: Any, file: Path, form: str, **options: object) -> None:
    """Writes a Pillow image in a format of Pillow, completely or not at all; creates the folder."""
    content = io.BytesIO()  # Pillow itself does not report a full disk when it writes a JPEG
    image.save(content, format=form, **options)
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(file) as part:
        part.write_bytes(content.getbuffer())
