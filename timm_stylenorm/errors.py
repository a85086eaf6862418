"""One wording of the messages for unknown names, and the category of our warnings."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

MOST_SHOWN = 20  # of the known names; if there are more, the message says how many


class StyleNormWarning(UserWarning):
    """A style method does less than it should, and the message says what is missing."""


def unknown(kind: str, name: object, known: Iterable[str], lists: str = '') -> str:
    """`unknown style method 'padian'; did you mean 'padain'? Known: padain, snr.`

    Args:
        kind: What the name should name.
        name: The name that does not exist.
        known: The names that exist.
        lists: The command or call that lists them.
    """
    names = sorted(known)
    asked = f'unknown {kind} {name!r}' if str(name) else f'no {kind} is named'
    if not names:
        return f'{asked}; there is none'
    near = difflib.get_close_matches(str(name), names, n=5)
    hint = f'; did you mean {near[0]!r}?' if near else '.'
    if len(names) <= MOST_SHOWN:
        return f'{asked}{hint} Known: {", ".join(names)}' + (f'; `{lists}` lists them.' if lists else '.')
    others = f', near: {", ".join(near)}' if near else ''
    return f'{asked}{hint} {len(names)} are known{others}' + (f'; `{lists}` lists them.' if lists else '.')


def no_site(model: str, name: str, available: Iterable[str]) -> str:
    """`RegNet has no site 'stage7'; available: convs, stage1, ...`"""
    names = list(available)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f'did you mean {near[0]!r}? Available' if near else 'available'
    return (
        f'{model} has no site {name!r}; {hint}: {", ".join(names)}, and names of modules or globs over them; '
        '`timm_stylenorm.list_sites(model)` or `stylenorm sites MODEL` lists them'
    )
