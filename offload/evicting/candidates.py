"""The files that were used longest ago, or last, out of millions in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from kvatlas.offload._native import KEY_BYTES_MAX
from kvatlas.offload.evicting.crawler import Listing, Part

_FILE = np.dtype(
    [
        ("last_use_ns", "i8"),
        ("n_bytes", "i8"),
        ("part", "i4"),
        ("key_bytes", "u1"),
        ("key", "u1", (KEY_BYTES_MAX,)),
    ]
)


class Candidate(NamedTuple):
    """A file that may be deleted if nobody has used it since."""

    part: Part
    key: bytes
    n_bytes: int
    last_use_ns: int


class Candidates:
    """Keeps the `files_max` oldest of what it is shown, at about 180 bytes each.

    One thread at a time.
    """

    def __init__(self, files_max: int = 131_072, *, newest: bool = False) -> None:
        """`newest`: keeps those that were used last instead."""
        self._sign = -1 if newest else 1
        self._files_max = files_max
        self._files = np.empty(2 * files_max + 1, _FILE)
        self._n = 0
        self._parts: dict[Part, int] = {}
        self._youngest_ns: int | None = None
        self.left_out = 0
        """Younger files that found no place: a further crawl would show them."""

    def add(self, listing: Listing) -> None:
        """The files of one folder."""
        if not listing.keys:
            return
        files = np.zeros(len(listing.keys), _FILE)
        files["last_use_ns"] = np.array(listing.last_uses_ns, np.int64) * self._sign
        files["n_bytes"] = listing.sizes
        files["part"] = self._parts.setdefault(listing.part, len(self._parts))
        files["key_bytes"] = list(map(len, listing.keys))
        packed = b"".join(key.ljust(KEY_BYTES_MAX, b"\0") for key in listing.keys)
        files["key"] = np.frombuffer(packed, np.uint8).reshape(-1, KEY_BYTES_MAX)
        if self._youngest_ns is not None:
            old = files[files["last_use_ns"] < self._youngest_ns]
            self.left_out += len(files) - len(old)
            files = old
        for start in range(0, len(files), self._files_max):
            self._append(files[start : start + self._files_max])

    def in_order(self) -> Iterator[Candidate]:
        """All that were kept, from the oldest, or newest, on. Nothing may be added any more."""
        self._keep_oldest()
        files = self._files[: self._n]
        parts = list(self._parts)
        for at in np.argsort(files["last_use_ns"], kind="stable"):
            file = files[at]
            key = file["key"].tobytes()[: int(file["key_bytes"])]
            yield Candidate(
                parts[file["part"]], key, int(file["n_bytes"]), int(file["last_use_ns"]) * self._sign
            )

    def _append(self, files: npt.NDArray[np.void]) -> None:
        if self._n + len(files) > len(self._files):
            self._keep_oldest()
        self._files[self._n : self._n + len(files)] = files
        self._n += len(files)

    def _keep_oldest(self) -> None:
        if self._n <= self._files_max:
            return
        order = np.argpartition(self._files["last_use_ns"][: self._n], self._files_max - 1)[: self._files_max]
        kept = self._files[: self._n][order]
        self.left_out += self._n - len(kept)
        self._files[: len(kept)] = kept
        self._n = len(kept)
        self._youngest_ns = int(kept["last_use_ns"].max())
