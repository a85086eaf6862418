"""One wording for names that do not exist, and the category of warnings."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class StyleNormWarning(UserWarning):
    """A style method does less than it should, and the message says what is missing."""


def unknown(kind: str, name: object, known: Iterable[str]) -> str:
    """`unknown style method 'padian'; did you mean 'padain'? Known: padain, snr.`"""
    names = sorted(known)
    near = difflib.get_close_matches(str(name), names, n=5)
    hint = f'; did you mean {near[0]!r}?' if near else '.'
    if len(names) > 20:  # too many to read
        return f'unknown {kind} {name!r}{hint} {len(names)} are known' + (
            f', near: {", ".join(near)}.' if near else '.'
        )
    return f'unknown {kind} {name!r}{hint} Known: {", ".join(names)}.'
