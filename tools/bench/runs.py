"""Shared code of tools that repeat runs: identity of a run, files of results, and spread over runs."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from disk import write_text


def fingerprint(content: dict[str, Any]) -> str:
    """16 hexadecimal digits that change with the content, for example of a config."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]


def write_json(file: Path, content: dict[str, Any]) -> None:
    """Writes JSON, completely or not at all."""
    write_text(file, json.dumps(content, indent=2) + '\n')


def read_json(file: Path) -> dict[str, Any]:
    """The content of a JSON file.

    Raises:
        ValueError: the file is damaged, or does not hold names and values; the message names it.
    """
    try:
        content = json.loads(file.read_text(encoding='utf-8-sig'))  # editors on Windows may prepend a byte order mark
    except ValueError as error:
        raise ValueError(f'{file} is no JSON file: {error}') from error
    if not isinstance(content, dict):
        raise ValueError(f'{file}: expected {{"name": value, ...}}, got {type(content).__name__}')
    return content


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation, which is 0 for a single value."""
    return mean(values), stdev(values) if len(values) > 1 else 0.0
