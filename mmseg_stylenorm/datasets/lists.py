"""Split lists as other projects write them: each line gives a pair by name, file name or path."""

import re
from collections.abc import Collection

from timm_stylenorm.datafiles import without_suffix


class SplitList:
    """Finds the images that the lines of a list refer to.

    Args:
        images: Names of all images, including their folders, without suffix.
        suffix: Suffix that may follow a name.
        folder: Folder of the images below the data set's folder. Folders that a line names before the image's name must
            agree with the last parts of it.
    """

    def __init__(self, images: Collection[str], suffix: str, folder: str = '') -> None:
        self.images, self.suffix, self.folder = images, suffix, _parts(folder)
        self.bare: dict[str, list[str]] = {}
        for image in images:
            self.bare.setdefault(_parts(image)[-1], []).append(image)

    def find(self, line: str) -> str | None:
        """Return the image that a line or its first column names (names may have spaces), or None if there is none.

        Raises:
            ValueError: The line names no folder, but several folders hold an image of that name.
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
        """Return an image in another folder that has the base name of a line's image, or None."""
        parts = _parts(line.split()[0])
        name = parts[-1] if parts else ''
        return next(iter(self.bare.get(without_suffix(name, self.suffix) or name, [])), None)


def _parts(path: str) -> list[str]:
    return [part for part in re.split(r'[\\/]', path) if part not in ('', '.')]
