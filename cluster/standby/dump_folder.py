"""The newest dump of a folder, loaded again and again as newer ones come."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from kvatlas.index.dumps.dump_file import DumpReader
from kvatlas.index.errors import ClusterError, DumpError, InputError

FILES_MAX = 256
"""The newest files by their time; older ones are not looked at."""

_log = logging.getLogger(__name__)


class _File(NamedTuple):
    """One state of one file."""

    modified_ns: int
    changed_ns: int
    """Also when it was only made readable."""
    bytes: int
    path: str


class DumpFolder:
    """Follows a folder. One thread at a time.

    The dump that was made last counts, by what it says itself; one from the future as one that was made
    when it was first seen, so that a clock that was ahead keeps none out that come later. One that cannot be
    used is left out until its file changes, and the next one is tried.
    """

    def __init__(
        self,
        folder: str | Path,
        load: Callable[[DumpReader], object],
        *,
        wall_s: Callable[[], float] = time.time,
    ) -> None:
        """`load` raises DumpError for a dump that cannot be used, InputError for one that is too large,
        ClusterError where nobody takes one now."""
        self.counts: Counter[str] = Counter()
        """`dumps_loaded`, `dumps_refused`, `folders_missing`, `loads_failed`."""
        self.loaded_s = 0.0
        """When the dump that is loaded was made, seconds since 1970; 0: none is."""
        self._wall_s = wall_s
        self.says = "no dump has been found yet"
        """What became of the last attempt."""
        self._folder = Path(folder)
        self._load = load
        self._known: dict[_File, float] = {}
        """When each was made; -1: it cannot be used."""

    def forget(self) -> None:
        """Nothing is loaded any more: the newest is to be loaded again."""
        self.loaded_s = 0.0

    def step(self) -> bool:
        """Look, and load what is newer; whether something was."""
        files = self._files()
        self._known = {file: made_s for file, made_s in self._known.items() if file in files}
        for file in files:
            if file not in self._known:
                self._known[file] = self._made_s(file)
        usable = {file: made_s for file, made_s in self._known.items() if made_s >= 0}
        for file in sorted(usable, key=lambda file: usable[file], reverse=True):
            if usable[file] <= self.loaded_s:
                return False
            try:
                return self._take(file)
            except (DumpError, InputError) as error:
                self._refuse(file, error)
            except ClusterError as error:
                self.counts["loads_failed"] += 1
                self.says = str(error)
                return False
        return False

    def _take(self, file: _File) -> bool:
        with DumpReader(file.path) as reader:
            self._load(reader)
        self.loaded_s = self._known[file]
        self.counts["dumps_loaded"] += 1
        self.says = f"loaded {file.path}"
        _log.info("%s", self.says)
        return True

    def _made_s(self, file: _File) -> float:
        try:
            with DumpReader(file.path) as reader:
                return min(reader.meta.created_s, self._wall_s())
        except DumpError as error:
            self._refuse(file, error)
            return self._known[file]

    def _refuse(self, file: _File, error: DumpError | InputError) -> None:
        self._known[file] = -1.0
        self.counts["dumps_refused"] += 1
        self.says = f"{file.path}: {error}"
        _log.warning("a dump is left out: %s", self.says)

    def _files(self) -> list[_File]:
        try:
            found = sorted(_files_of(self._folder), reverse=True)
        except OSError as error:
            self.counts["folders_missing"] += 1
            self.says = f"{self._folder}: expected a folder that can be read, {error}"
            return []
        return found[:FILES_MAX]


def _files_of(folder: Path) -> Iterator[_File]:
    """Regular files; those that are being written begin with a dot."""
    with os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):  # it is gone by now, or a link that leads nowhere
                if not entry.name.startswith(".") and entry.is_file():
                    told = entry.stat()
                    yield _File(told.st_mtime_ns, told.st_ctime_ns, told.st_size, entry.path)
