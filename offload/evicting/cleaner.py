"""Cleaning a store: litter of writers that died, and folders that nothing lies in any more."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from kvatlas.offload.capacity.control import ControlFolder
from kvatlas.offload.capacity.limits import CapacityLimits
from kvatlas.offload.evicting.crawler import Litter, Part

_EMPTY_S = 3600.0


class Cleaner:
    """Removes litter and empty folders. One thread at a time. `counts`: litter, litter_bytes, folders."""

    def __init__(self, control: ControlFolder, limits: CapacityLimits) -> None:
        self._control = control
        self._limits = limits
        self.counts: Counter[str] = Counter()

    def remove_litter(self, litter: Iterable[Litter], now_ns: int) -> int:
        """Of a listing; returns the bytes that went. Raises OSError but for what is gone already."""
        gone = 0
        for one in litter:
            age_s = self._limits.bad_s if one.is_bad else self._limits.temporary_s
            if now_ns - one.last_use_ns < age_s * 1e9:
                continue
            with contextlib.suppress(FileNotFoundError):
                os.unlink(one.path)
                gone += one.n_bytes
                self.counts["litter"] += 1
                self.counts["litter_bytes"] += one.n_bytes
        return gone

    def clean_control(self, now_ns: int) -> None:
        """Small temporary files of processes that died. Raises OSError."""
        for folder in (self._control.folder, self._control.ledger, self._control.pins):
            with contextlib.suppress(FileNotFoundError), os.scandir(folder) as listing:
                for one in listing:
                    if one.name.startswith(".") and one.name.endswith(".tmp"):
                        with contextlib.suppress(FileNotFoundError):
                            found = one.stat(follow_symlinks=False)
                            litter = Litter(one.path, found.st_size, found.st_mtime_ns, is_bad=False)
                            self.remove_litter([litter], now_ns)

    def remove_folder(self, part: Part, folder: str, now_ns: int) -> None:
        """One of three hex digits, if it was empty for an hour: writers make it again. Raises OSError."""
        self._remove_empty(Path(part.path) / folder, now_ns)

    def remove_part(self, part: Part, now_ns: int) -> None:
        """A part without folders; its space stays, with its config.json. Raises OSError."""
        self._remove_empty(Path(part.path), now_ns)

    def _remove_empty(self, folder: Path, now_ns: int) -> None:
        with contextlib.suppress(FileNotFoundError):
            if now_ns - os.stat(folder).st_mtime_ns < _EMPTY_S * 1e9:
                return
            try:
                os.rmdir(folder)  # refuses when something lies in it
            except OSError as error:
                if not isinstance(error, FileNotFoundError) and os.listdir(folder):
                    return
                raise
            self.counts["folders"] += 1
