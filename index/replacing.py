"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_NAME_BYTES = 200
"""Of a name, in that of the file that will take its place: the rest tells it from others."""
_LEFT_S = 3600.0
"""Nobody writes to what has not changed for so long: a process that was killed has left it."""


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file of the owner's only, that takes the place of `path` when all went well. Raises OSError."""
    number, name = tempfile.mkstemp(prefix=_begins(path), suffix=_END, dir=path.parent)
    try:
        with os.fdopen(number, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """As `replacing`, of what may be a link: then what it names is replaced; or a pipe or a device, whose
    place no file may take: then it is written to. What killed ones have left goes. Raises OSError."""
    mode = path.stat().st_mode if path.exists() else stat.S_IFREG
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "Is a directory", str(path))
    target = Path(os.path.realpath(path))
    if stat.S_ISREG(mode):
        _remove_left(target)
    with replacing(target) if stat.S_ISREG(mode) else path.open("wb") as file:
        yield file


_END = ".part"


def _begins(path: Path) -> str:
    return "." + os.fsdecode(os.fsencode(path.name)[:_NAME_BYTES]) + "."


def _remove_left(path: Path) -> None:
    before_s = time.time() - _LEFT_S
    with os.scandir(path.parent) as entries:
        for entry in entries:
            if entry.name.startswith(_begins(path)) and entry.name.endswith(_END):
                with contextlib.suppress(OSError):
                    if entry.stat(follow_symlinks=False).st_mtime < before_s:
                        os.unlink(entry.path)
