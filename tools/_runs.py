"""What the tools that repeat runs have in common: is a run the same, and is its result whole."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any


def fingerprint(content: dict[str, Any]) -> str:
    """16 hexadecimal digits that change with the content, as of a config."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]


def write_whole(file: Path, content: dict[str, Any]) -> None:
    """Writes JSON through a temporary file: no interrupted run leaves half of it."""
    part = file.with_suffix('.part')
    part.write_text(json.dumps(content, indent=2) + '\n')
    os.replace(part, file)
