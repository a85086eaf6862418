"""How a host is patched: each patch is a row of a table in that host's `host.py`, and `install_patches` applies them.

A row names the original and its replacement as text, so that the tables import neither.
"""

from __future__ import annotations

import builtins
import functools
import pkgutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any, NamedTuple

_INSTALLED: dict[str, object] = {}  # name of what was replaced -> its replacement


class Patch(NamedTuple):
    """A row of a table of patches.

    Attributes:
        what: The dotted names of the objects that are replaced; `name[key]` for an entry of a dict.
        why: What goes wrong without the patch.
        since: The oldest version of the host that was seen to need it.
        until: The newest one.
        by: The dotted name of the replacement; '' if it is passed to `patched`, which replaces temporarily.
        wraps: Whether `by` is called with the original, and returns the replacement.
        needed: Whether the installed host needs it.
    """

    what: tuple[str, ...]
    why: str
    since: str
    until: str
    by: str = ''
    wraps: bool = False
    needed: bool = True

    def install(self) -> None:
        """Put the replacement in place, once in a process.

        Raises:
            RuntimeError: The host has no object of this name.
        """
        ours = _get(self.by)
        new = functools.cache(ours) if self.wraps else lambda own: ours
        for name in self.what:
            if name not in _INSTALLED:
                own = self.current(name)
                _INSTALLED[name] = new(own)
                _set(name, _INSTALLED[name])

    def took(self) -> bool:
        """Whether the host now has the replacement under all names."""
        return all(name in _INSTALLED and self.current(name) is _INSTALLED[name] for name in self.what)

    def current(self, name: str) -> object:
        """The object that the host has under one of the names.

        Raises:
            RuntimeError: It has none.
        """
        try:
            return _get(name)
        except (AttributeError, ImportError, KeyError) as error:
            raise RuntimeError(
                f'{name} is not there ({error!r}), which stylenorm replaces because {self.why}. It was there from '
                f'{self.since} to {self.until}: install one of these versions, or a newer stylenorm'
            ) from error


def install_patches(table: Iterable[Patch]) -> None:
    """Install the rows of a table that are needed here; a second call changes nothing."""
    for patch in table:
        if patch.needed:
            patch.install()


@contextmanager
def patched(new: Mapping[Patch, Callable[..., object]]) -> Iterator[None]:
    """Within, the host's own objects are replaced by what these functions return for them."""
    with ExitStack() as stack:
        for patch, wrap in new.items():
            wrap = functools.cache(wrap)
            for name in patch.what:
                own = patch.current(name)
                stack.callback(_set, name, own)
                _set(name, wrap(own))
        yield


class StandIn(ModuleType):
    """A module in the place of another: arguments become its own attributes, all others are those of the other."""

    def __init__(self, module: ModuleType, **own: object) -> None:
        super().__init__(module.__name__, module.__doc__)
        self._module = module
        vars(self).update(own)

    def __getattr__(self, name: str) -> object:
        return getattr(self._module, name)

    def __dir__(self) -> list[str]:
        return dir(self._module)


def _split(name: str) -> tuple[object, str]:
    """The object that owns the attribute or dict entry of this name, and the attribute's name or the key."""
    if name.endswith(']'):
        owner, _, key = name[:-1].partition('[')
    else:
        owner, _, key = name.rpartition('.')
    return pkgutil.resolve_name(owner), key


def _get(name: str) -> Any:
    owner, key = _split(name)
    if isinstance(owner, Mapping):
        return owner.get(key)
    if isinstance(owner, ModuleType) and key in vars(builtins):
        return getattr(owner, key, vars(builtins)[key])
    return getattr(owner, key)


def _set(name: str, value: object) -> None:
    owner, key = _split(name)
    if isinstance(owner, Mapping):
        owner[key] = value  # type: ignore[index]
    else:
        setattr(owner, key, value)
