"""What a store's bytes are behind: files, objects. Submitted jobs run elsewhere, their ends are polled."""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias, overload

import msgspec
import numpy as np
import numpy.typing as npt

Rows: TypeAlias = npt.NDArray[np.int32]
"""Row numbers of host memory, one a key [n_keys]."""


class PackedKeys(Sequence[bytes]):
    """Keys of one length, one behind the other; each is cut out when it is asked for."""

    def __init__(self, packed: bytes, key_bytes: int) -> None:
        self.packed, self._key_bytes = packed, key_bytes

    def __len__(self) -> int:
        return len(self.packed) // self._key_bytes

    @overload
    def __getitem__(self, at: int) -> bytes: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[bytes]: ...
    def __getitem__(self, at: int | slice) -> bytes | Sequence[bytes]:
        if isinstance(at, slice):
            return [self[one] for one in range(*at.indices(len(self)))]
        begin = range(len(self))[at] * self._key_bytes
        return self.packed[begin : begin + self._key_bytes]


def packed(keys: Sequence[bytes]) -> bytes:
    """The keys, one behind the other."""
    return keys.packed if isinstance(keys, PackedKeys) else b"".join(keys)


class Outcome(enum.IntEnum):
    """How it went with one key of a job; the numbers are those of the native engine."""

    OK = 0
    PRESENT = 1
    """Of a store: it was there already."""
    ABSENT = 2
    CORRUPT = 3
    """There, and not what it should be: torn, flipped, foreign. It is removed by whoever finds it."""
    FAILED = 4
    NO_SPACE = 5
    READ_ONLY = 6
    TIMED_OUT = 7
    CANCELLED = 8


class Finished(msgspec.Struct, frozen=True):
    """The end of one job."""

    job: int
    outcomes: bytes
    """One `Outcome` a key, in the job's order."""
    n_bytes: int = 0
    """Moved."""
    seconds: float = 0.0
    """From its submission."""
    error: str = ""
    """The first error in words."""


class Backend(ABC):
    """Moves chunks between rows of host memory and one place of storage.

    Made and used by one thread. No method waits for storage, but `drain` and `close`, for the seconds
    that they are given. Each submitted job ends once in `finished`, in bounded time: what has hung
    ends as TIMED_OUT, and neither reads nor writes its rows from then on.
    """

    @abstractmethod
    def submit_store(self, job: int, keys: Sequence[bytes], rows: Rows) -> bool:
        """Writes rows under their keys. False: no room in the queue, nothing was taken."""

    @abstractmethod
    def submit_load(self, job: int, keys: Sequence[bytes], rows: Rows) -> bool:
        """Reads what the keys name, verifies it, copies it into the rows. False: no room in the queue."""

    @abstractmethod
    def submit_probe(self, job: int, keys: Sequence[bytes]) -> bool:
        """Looks whether the keys are there: OK, ABSENT, or a failure. False: no room in the queue."""

    @abstractmethod
    def finished(self) -> Sequence[Finished]:
        """The jobs that have ended since the last call."""

    @abstractmethod
    def drain(self, seconds: float) -> bool:
        """Waits until all jobs have ended; what has not by then is given up: CANCELLED or TIMED_OUT.

        After it no row is read or written, and `finished` has all jobs. False: something was given up.
        """

    @abstractmethod
    def close(self, seconds: float) -> None:
        """Ends threads and lets go of the memory, waiting for so long at most. Twice is fine."""

    @abstractmethod
    def statistics(self) -> Mapping[str, float]:
        """Counters and gauges by name; every bound has one."""

    def may_store(self, n_chunks: int) -> bool:
        """Whether the store's capacity has room for so many chunks more; from memory.

        True reserves it, until `submit_store`, which must follow with as many, refuses or the job ends.
        """
        return True

    def touched(self, keys: Sequence[bytes]) -> None:
        """These were used: eviction takes others first."""
        return

    def take_removed(self) -> Sequence[bytes]:
        """Keys that this process has evicted since the last call; any one thread."""
        return ()

    def is_there(self, key: bytes) -> bool:
        """Asks the store itself; called by a thread of its own, which may wait."""
        return False

    def inventory(self) -> Iterator[Sequence[bytes]]:
        """What is there, in batches; called and iterated by a thread of its own, which may wait."""
        return iter(())
