"""What the tools show in a terminal: what a run does. Its environment, config and hooks go to the log file."""

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
    """Leaves out messages that begin like one of `FILE_ONLY`, and warnings that this process has shown before."""

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
    """What a log handler does if it cannot write: it says so once, instead of a traceback for each line."""

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
    """Context whose printed lines appear at its end, each only once: hosts repeat themselves while they are imported.

    Their warnings are left out: they are about compiled operators that are not found and that nothing here needs.
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
