"""Deleting files that others may be using: aside, looked at once more, told, then gone.

    1. renamed to control/trash/<space>/<part>/<name>.<token>   from now on nobody finds it
    2. its date and the pins are looked at again                used or pinned meanwhile: put back
    3. its removal is told (`on_removed`)                       as long as it is known that there is one
    4. unlinked

A process that dies in between leaves a file in the trash, and the next evictor puts it back, or tells and
unlinks it. Of two that delete the same file one renames it, the other finds nothing. A file is put back only
where nobody has written it anew meanwhile; both would be the same, files are named by content.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from kvatlas.index.errors import StoreError
from kvatlas.offload._native import chunk_key, chunk_name
from kvatlas.offload.capacity.control import ControlFolder
from kvatlas.offload.capacity.pins import Pins, pins_mark, read_pins
from kvatlas.offload.evicting.candidates import Candidate

OnRemoved = Callable[[str, Sequence[bytes]], None]
"""Called with a space and keys that nobody finds there any more; on the deleter's thread."""

_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


class _Aside(NamedTuple):
    """A file in the trash."""

    space: str
    key: bytes
    path: str
    place: str
    n_bytes: int
    last_use_ns: int


class Deleter:
    """Deletes batches of one store's files. One thread at a time; more of its own for slow file systems.

    What it has done is in `counts`: deleted, touched, pinned, gone, put_back.
    """

    def __init__(self, control: ControlFolder, on_removed: OnRemoved, threads: int = 1) -> None:
        self._control = control
        self._on_removed = on_removed
        self._token = secrets.token_hex(6)
        self._pool = ThreadPoolExecutor(threads, "kvatlas-delete")
        self._pins: Pins | None = None
        self.counts: Counter[str] = Counter()

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def delete(self, batch: Sequence[Candidate]) -> int:
        """Returns how many bytes went. Raises StoreError where pins cannot be read, OSError."""
        pins = self._pins_now()
        wanted = []
        for one in batch:
            if pins.is_pinned(one.part.space, one.key):
                self.counts["pinned"] += 1
            else:
                wanted.append(one)
        for space, part in {one.part[:2] for one in wanted}:
            (self._control.trash / space / part).mkdir(parents=True, exist_ok=True)
        aside = [one for one in self._pool.map(self._put_aside, wanted) if one is not None]
        return self._end(aside)

    def empty_trash(self, now_ns: int, age_ns: int, lease_ns: int) -> int:
        """What dead evictors have left there for longer than `age_ns`; returns as `delete`."""
        left = []
        for folder, names in self._trash():
            space, part = folder.parts[-2:]
            for name in names:
                with contextlib.suppress(FileNotFoundError):
                    found = os.stat(folder / name, follow_symlinks=False)
                    key = chunk_key(name.rpartition(".")[0])
                    if key is not None and now_ns - found.st_ctime_ns >= age_ns:
                        place = f"{self._control.root}/{space}/{part}/{chunk_name(key)}"
                        left.append(
                            _Aside(space, key, str(folder / name), place, found.st_size, found.st_mtime_ns)
                        )
        in_use = [one for one in left if now_ns - one.last_use_ns < lease_ns]
        self._put_back(in_use)
        return self._end([one for one in left if now_ns - one.last_use_ns >= lease_ns])

    def _pins_now(self) -> Pins:
        if self._pins is None or pins_mark(self._control) != self._pins.mark:
            self._pins = read_pins(self._control)
        return self._pins

    def _put_aside(self, one: Candidate) -> _Aside | None:
        name = chunk_name(one.key)
        place = f"{one.part.path}/{name}"
        path = f"{self._control.trash}/{one.part.space}/{one.part.part}/{name[4:]}.{self._token}"
        try:
            if os.stat(place, follow_symlinks=False).st_mtime_ns != one.last_use_ns:
                self.counts["touched"] += 1
                return None
            os.rename(place, path)
            found = os.stat(path, follow_symlinks=False)
        except FileNotFoundError:
            self.counts["gone"] += 1
            return None
        aside = _Aside(one.part.space, one.key, path, place, found.st_size, found.st_mtime_ns)
        if found.st_mtime_ns == one.last_use_ns:
            return aside
        self.counts["touched"] += 1
        self._put_back([aside])
        return None

    def _end(self, aside: list[_Aside]) -> int:
        """Tells and unlinks. A pin that came meanwhile is heeded."""
        try:
            pins = self._pins_now()
        except StoreError:
            self._put_back(aside)
            raise
        pinned = [one for one in aside if pins.is_pinned(one.space, one.key)]
        self.counts["pinned"] += len(pinned)
        self._put_back(pinned)
        ended = [one for one in aside if not pins.is_pinned(one.space, one.key)]
        by_space: defaultdict[str, list[bytes]] = defaultdict(list)
        for one in ended:
            by_space[one.space].append(one.key)
        for space, keys in by_space.items():
            self._on_removed(space, keys)
        return sum(self._pool.map(self._unlink, ended))

    def _unlink(self, one: _Aside) -> int:
        try:
            os.unlink(one.path)
        except FileNotFoundError:  # another evictor has taken us for dead
            self.counts["gone"] += 1
            return 0
        self.counts["deleted"] += 1
        return one.n_bytes

    def _put_back(self, aside: Sequence[_Aside]) -> None:
        for one in aside:
            try:
                os.link(one.path, one.place)
            except FileExistsError:
                pass  # written anew meanwhile: the same bytes
            except FileNotFoundError:
                continue
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                os.rename(one.path, one.place)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(one.path)
            self.counts["put_back"] += 1

    def _trash(self) -> list[tuple[Path, list[str]]]:
        found = []
        for space in _names(self._control.trash):
            for part in _names(self._control.trash / space):
                folder = self._control.trash / space / part
                found.append((folder, _names(folder)))
        return found


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
