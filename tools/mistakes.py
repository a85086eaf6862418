"""How a tool ends: a user's mistake as `error: ...` with exit status 2 and no traceback, a bug with its traceback.

A mistake is

    a ValueError, TypeError, LookupError, FloatingPointError or OSError from a `raise` statement of this project,
    a system error about a file or a download: absent, a folder, not permitted, disk full, no network,
    a package that this project or an extra of it needs and that is not installed, too old, or installed twice,
    an error that a class which mmengine builds from a config raises itself; a type that is in no registry;
    an argument that a type does not take.

Every other error is a bug, such as a KeyError or a ValueError that Python or a library raises in our code.
"""

import errno
import functools
import linecache
import re
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.error import URLError

from processes import obey

HERE = Path(__file__).resolve().parent
PACKAGES = ('timm_stylenorm', 'mmseg_stylenorm')
STATED = (ValueError, TypeError, LookupError, FloatingPointError, OSError)
FULL_OR_READ_ONLY = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}
BUILDERS = {
    'mmengine/registry/build_functions.py': {'build_from_cfg'},
    'mmengine/runner/runner.py': {'build_dataloader'},
}
OF_WORKER = re.compile(  # torch's text for an error in a data loader's worker process; its last frame
    r'Caught \w+ in DataLoader worker process \d+\.\nOriginal Traceback.*'
    r'\n  File "(?P<file>[^"]+)", line (?P<line>\d+), in [^\n]*\n(?:    [^\n]*\n)*[\w.]+: (?P<message>.*)',
    re.S,
)
WRONG_ARGUMENT = re.compile(r"got an unexpected keyword argument '(\w+)'|missing \d+ required")


class UserError(SystemExit):
    """Ends the process with status 2, after the message was printed."""

    def __init__(self, message: str) -> None:
        super().__init__(2)
        self.message = message

    def __str__(self) -> str:
        return self.message


def command(main: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator for a tool's `main`: mistakes end it as described above; it ends with the tool that started it."""

    @functools.wraps(main)
    def run(argv: list[str] | None = None) -> Any:
        obey()
        try:
            return main(argv)
        except BrokenPipeError:
            raise
        except ImportError as error:
            told = what_is_missing(error)
            if told is None:
                raise
            fail(told, error)
        except STATED as error:
            cause = behind_builder(error)
            if not is_mistake(cause):
                raise
            fail(text_of(cause), cause)

    return run


def what_is_missing(error: ImportError) -> str | None:
    """The message about a package that is missing, too old, or installed twice; None for a bug."""
    if isinstance(error, ModuleNotFoundError) and error.name in ('torch', 'numpy', 'safetensors'):
        return f'{error.name} is not installed: pip install {error.name}'
    from timm_stylenorm.installed import EXTRAS, cure

    text = str(error)
    if (
        isinstance(error, ModuleNotFoundError)
        and error.name in EXTRAS
        and text in ('', f'No module named {error.name!r}')
    ):
        return f'{error.name} is not installed: {cure(error.name)}'
    return text if is_stated(error) else None


def fail(message: str, cause: BaseException) -> None:
    """Prints the message and ends the process.

    Raises:
        UserError: always.
    """
    print(f'error: {message}', file=sys.stderr)
    raise UserError(message) from cause


def is_mistake(error: BaseException) -> bool:
    """Whether the user, not the project, must correct something; see the module docstring."""
    if isinstance(error, OSError) and (
        error.filename is not None
        or error.errno in FULL_OR_READ_ONLY
        or isinstance(error, FileNotFoundError | PermissionError | ConnectionError | TimeoutError | URLError)
    ):
        return True
    return isinstance(error, STATED) and (is_stated(error) or is_wrong_argument(error))


def is_stated(error: BaseException) -> bool:
    """Whether a `raise` statement raised it, in our code or in a class that is built from a config."""
    steps = list(traceback.walk_tb(error.__traceback__))
    frame, line = steps[-1]
    worker = OF_WORKER.match(str(error))
    file, line = (worker['file'], int(worker['line'])) if worker else (frame.f_code.co_filename, line)
    if not (_is_ours(file) or any(_builds(frame) for frame, _ in steps)):
        return False
    return linecache.getline(file, line).lstrip().startswith('raise ')


def _is_ours(file: str) -> bool:
    packages = [sys.modules[name].__file__ for name in PACKAGES if name in sys.modules]
    folders = {HERE, *(Path(str(package)).resolve().parent for package in packages)}
    return bool(folders & {*Path(file).resolve().parents})


def is_wrong_argument(error: BaseException) -> bool:
    """Whether a class built from a config lacks an argument, or got one from the config that it does not take."""
    found = WRONG_ARGUMENT.search(str(error)) if isinstance(error, TypeError) else None
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    builders = [frame for frame in frames if _builds(frame)]
    if found is None or not builders:
        return False
    return found[1] in builders[-1].f_locals.get('args', ()) if found[1] else frames[-1] is builders[-1]


def behind_builder(error: BaseException) -> BaseException:
    """The error itself or, if mmengine's builder raised it again with a longer text, the original error."""
    while error.__context__ is not None and _builds(list(traceback.walk_tb(error.__traceback__))[-1][0]):
        error = error.__context__
    return error


def _builds(frame: FrameType) -> bool:
    file = '/'.join(Path(frame.f_code.co_filename).parts[-3:])
    return frame.f_code.co_name in BUILDERS.get(file, ())


def text_of(error: BaseException) -> str:
    """The message; for an OSError with a file, 'FILE: what is wrong'."""
    worker = OF_WORKER.match(str(error))
    if worker:
        return worker['message']
    if isinstance(error, OSError) and error.strerror:
        return f'{error.filename}: {error.strerror}' if error.filename is not None else error.strerror
    return str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
