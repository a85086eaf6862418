"""What the tools that repeat runs have in common: is a run the same, is its result whole, how do runs spread."""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import mean, stdev
from typing import Any


def fingerprint(content: dict[str, Any]) -> str:
    """16 hexadecimal digits that change with the content, as of a config."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]


@contextmanager
def whole(file: Path) -> Iterator[Path]:
    """A temporary file beside, which takes the name at the end: no interrupted run leaves half of it."""
    part = file.with_name(f'{file.name}.part')
    yield part
    os.replace(part, file)


def write_whole(file: Path, content: dict[str, Any]) -> None:
    """Writes JSON, whole or not at all."""
    with whole(file) as part:
        part.write_text(json.dumps(content, indent=2) + '\n')


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation; 0 of a single value."""
    return mean(values), stdev(values) if len(values) > 1 else 0.0
