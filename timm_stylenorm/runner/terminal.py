"""What the tools show in a terminal: what a run does. What it runs on, and with, is in its log file."""

import io
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import ClassVar

from mmengine.logging import MMLogger
from mmengine.runner import Runner

FILE_ONLY = ('System environment:', 'Config:\n', 'Hooks will be executed in the following order:')


class TerminalFilter(logging.Filter):
    """Leaves out messages that begin as `FILE_ONLY`, and a warning that this process has shown before."""

    shown: ClassVar[set[str]] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to show a message."""
        text = str(record.msg)
        if record.levelno == logging.WARNING:
            new = text not in self.shown
            self.shown.add(text)
            return new
        return record.levelno > logging.INFO or not text.lstrip('-\n').startswith(FILE_ONLY)


class _TellOnce:
    """What a handler of a log does where it cannot write: says so once, and not by a traceback for each line."""

    def __init__(self, handler: logging.FileHandler) -> None:
        self.handler, self.told = handler, False

    def __call__(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            logging.FileHandler.handleError(self.handler, record)
        elif not self.told:
            self.told = True
            print(f'{self.handler.baseFilename}: {error.strerror} while writing the log', file=sys.stderr)  # noqa: T201


class QuietRunner(Runner):
    """mmengine's Runner, whose environment, config and hooks go to the log file and not to the terminal."""

    def build_logger(self, *args: object, **kwargs: object) -> MMLogger:
        """mmengine's logger with our filter on what it shows."""
        logger = super().build_logger(*args, **kwargs)
        for handler in logger.handlers:
            if isinstance(handler, logging.FileHandler):
                handler.handleError = _TellOnce(handler)  # type: ignore[method-assign]
            else:
                handler.addFilter(TerminalFilter())
        logger.info(f'environment, config and hooks: {logger.log_file}')
        return logger


@contextmanager
def each_line_once() -> Iterator[None]:
    """What is printed within appears at the end, and no line twice: hosts repeat themselves while they are imported.

    Their warnings are left out: they are of compiled operators that they do not find, and that nothing here needs.
    """
    said = io.StringIO()
    logging.disable(logging.WARNING)
    try:
        with redirect_stdout(said), warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield
    finally:
        logging.disable(logging.NOTSET)
        for line in dict.fromkeys(said.getvalue().splitlines()):
            print(line)  # noqa: T201 (it has been printed)
