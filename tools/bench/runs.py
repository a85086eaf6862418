"""What the tools that repeat runs have in common: is a run the same, is its result whole, how do runs spread."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from timm_stylenorm.checkpoints import whole


def fingerprint(content: dict[str, Any]) -> str:
    """16 hexadecimal digits that change with the content, as of a config."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]


def write_whole(file: Path, content: dict[str, Any]) -> None:
    """Writes JSON, whole or not at all."""
    with whole(file) as part:
        part.write_text(json.dumps(content, indent=2) + '\n')


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation; 0 of a single value."""
    return mean(values), stdev(values) if len(values) > 1 else 0.0
