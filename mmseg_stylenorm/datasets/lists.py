"""Split lists, as projects write them: a pair in each line, by name, by file or by path."""

import re
from collections.abc import Collection

from timm_stylenorm.datafiles import without_suffix


class SplitList:
    """Finds the images that the lines of a list mean.

    Args:
        images: Names of all images, with the folders in which they lie, without suffix.
        suffix: What may follow a name.
        folder: The folder of the images below the data set's. Where a line names folders, they must be its last ones.
    """

    def __init__(self, images: Collection[str], suffix: str, folder: str = '') -> None:
        self.images, self.suffix, self.folder = images, suffix, _parts(folder)
        self.bare: dict[str, list[str]] = {}
        for image in images:
            self.bare.setdefault(_parts(image)[-1], []).append(image)

    def find(self, line: str) -> str | None:
        """The image of a line: the line itself, since names may have spaces, or its first column; None without one.

        Raises:
            ValueError: The line has no folder, and images of that name lie in several ones.
        """
        entries = [line, line.split()[0], line.split('\t')[0].strip()]
        entries = [without_suffix(entry, self.suffix) or entry for entry in entries]
        if entries[0] in self.images:
            return entries[0]
        found = (self._by_path(_parts(entry)) for entry in (*entries[1:], entries[0]))
        return next((name for name in found if name is not None), None)

    def _by_path(self, parts: list[str]) -> str | None:
        for k in range(len(parts)):
            name, before = '/'.join(parts[k:]), parts[:k]
            known = min(len(before), len(self.folder))
            if name in self.images and before[k - known :] == self.folder[len(self.folder) - known :]:
                return name
        same = self.bare.get(parts[0], []) if len(parts) == 1 else []
        if len(same) > 1:
            raise ValueError(f'{parts[0]!r} in a list may be any of {", ".join(same[:4])}; lists must name the folder')
        return same[0] if same else None

    def elsewhere(self, line: str) -> str | None:
        """An image in another folder, with the base name of the one that a line names."""
        parts = _parts(line.split()[0])
        name = parts[-1] if parts else ''
        return next(iter(self.bare.get(without_suffix(name, self.suffix) or name, [])), None)


def _parts(path: str) -> list[str]:
    return [part for part in re.split(r'[\\/]', path) if part not in ('', '.')]
