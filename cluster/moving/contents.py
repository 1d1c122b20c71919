"""What `diff` and `grep` look at in a dump, and how people name block keys."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kvatlas.index.dumps.diffing import Dumped
from kvatlas.index.dumps.dump_file import DumpReader
from kvatlas.index.dumps.meta import DumpMeta, require_keyspaces
from kvatlas.index.errors import ConfigError

_KEY_MAX = 1 << 64


@contextlib.contextmanager
def dumped_content(file: Path) -> Iterator[tuple[DumpMeta, Dumped]]:
    """Of a dump, to be read once. Raises DumpError."""
    with DumpReader(file) as reader:
        yield reader.meta, Dumped(reader.meta.parts, reader)


def check_comparable(left: DumpMeta, right: DumpMeta, name: str) -> None:
    """Raises DumpError where one model has other block keys in the two; `name`: of the left one."""
    require_keyspaces(left, right.keyspaces, name=name)


def block_keys(texts: Sequence[str]) -> npt.NDArray[np.uint64] | None:
    """Block keys as people write them, 0x... or decimal; None: no text. Raises ConfigError."""
    if not texts:
        return None
    keys = []
    for text in texts:
        try:
            key = int(text, 0)
        except ValueError:
            key = -1
        if not 0 <= key < _KEY_MAX:
            raise ConfigError(f"key: expected a number of 64 bits, as 0x1f or decimal, got {text!r}")
        keys.append(key)
    return np.array(keys, np.uint64)
