"""What an I/O engine answers, job by job, in plain Python: a folder as a map, rows as bytes."""

from __future__ import annotations

from collections.abc import Sequence

CONTENT = bytes | None
"""Of a file: its payload; None: the file is damaged."""


class ChunkStore:
    """A folder of chunk files and rows of memory; each job is done at once."""

    def __init__(self, rows: Sequence[bytes]) -> None:
        self.files: dict[bytes, CONTENT] = {}
        self.rows = list(rows)

    def store(self, key: bytes, row: int) -> str:
        if key in self.files:  # damage that keeps the size is not seen by a store
            return "PRESENT"
        self.files[key] = self.rows[row]
        return "OK"

    def load(self, key: bytes, row: int) -> str:
        """After anything but OK the row's bytes are undefined, and the model's are left as they were."""
        if key not in self.files:
            return "ABSENT"
        content = self.files[key]
        if content is None:
            del self.files[key]
            return "CORRUPT"
        self.rows[row] = content
        return "OK"

    def probe(self, key: bytes) -> str:
        """Sees damage of heads, which is what `damage` makes."""
        if key not in self.files:
            return "ABSENT"
        if self.files[key] is None:
            del self.files[key]
            return "CORRUPT"
        return "OK"

    def remove(self, key: bytes) -> str:
        if key not in self.files:
            return "ABSENT"
        del self.files[key]
        return "OK"

    def damage(self, key: bytes) -> bool:
        """False: there is no such file."""
        if key not in self.files:
            return False
        self.files[key] = None
        return True
