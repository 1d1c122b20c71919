"""What a shard holds at one moment, given away in sections while it goes on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from kvatlas.actors.link import messages
from kvatlas.actors.link.messages import Message
from kvatlas.index._native import Snapshot, Table, snapshot
from kvatlas.index.errors import InputError

EXPORTS_MAX = 2
"""At a time; each keeps a copy of what the table held."""
IDLE_S_MAX = 30.0
"""After so long without a question an export is given up."""

_SECTION_HEAD_BYTES = 4096
_KEYS_MAX = 1 << 20
_KEY_BYTES = 64
"""Room for a key of a section and its share of the rest; a section that is larger all the same is refused."""


@dataclass
class _Export:
    """One snapshot on its way out."""

    held: Snapshot
    sections: Iterator[bytes]
    was_whole: bool
    asked_s: float
    section: int = -1
    """Number of the last section that was made."""
    body: bytes = b""
    """That section, in case its answer was lost."""


class Exports:
    """Answers EXPORT. Any thread may call any method; exports take turns. Source: docs/shard_protocol.md."""

    def __init__(
        self,
        table: Table,
        count: Callable[[str], None],
        reply_bytes_max: int,
        *,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """`count` is told what was done, by name. `reply_bytes_max`: of a frame."""
        self._table = table
        self._count = count
        self._reply_bytes_max = reply_bytes_max
        self._keys_max = max(1, min(_KEYS_MAX, (reply_bytes_max - _SECTION_HEAD_BYTES) // _KEY_BYTES))
        self._clock_s = clock_s
        self._lock = threading.Lock()
        self._exports: dict[int, _Export] = {}

    def answer(self, asked: Message, *, whole: bool) -> bytes:
        """`whole`: whether the shard was, before. Raises InputError for what cannot be answered,
        DumpError where there is no room for another copy."""
        with self._lock:
            self._drop_idle()
            if asked.begins_export:
                return self._begin(asked, whole)
            if asked.ends_export:
                self._exports.pop(asked.number, None)
                return messages.exported(asked, b"")
            return self._section(asked)

    def tidy(self) -> None:
        """Give up what nobody asks for any more; from time to time. Never waits."""
        if self._lock.acquire(blocking=False):
            try:
                self._drop_idle()
            finally:
                self._lock.release()

    def close(self) -> None:
        """Give up all."""
        with self._lock:
            self._exports.clear()

    def __len__(self) -> int:
        return len(self._exports)

    def _begin(self, asked: Message, whole: bool) -> bytes:
        export = self._exports.get(asked.number)
        if export is None:
            if len(self._exports) >= EXPORTS_MAX:
                raise InputError(f"export: expected at most {EXPORTS_MAX} at a time, got one more")
            held = snapshot([self._table])[0]
            export = _Export(held, held.sections(self._keys_max), whole, self._clock_s())
            self._exports[asked.number] = export
            self._count("exports")
        export.asked_s = self._clock_s()
        totals = messages.export_totals(export.held.entries, export.held.pairs)
        return messages.exported(asked, totals, whole=export.was_whole)

    def _section(self, asked: Message) -> bytes:
        export = self._exports.get(asked.number)
        if export is None:
            raise InputError(f"export: expected one that stands, {asked.number} was never begun or given up")
        section = messages.section_of(asked)
        if section not in (export.section, export.section + 1):
            raise InputError(f"export: expected section {export.section + 1}, got {section}")
        export.asked_s = self._clock_s()
        if section != export.section:
            export.body = next(export.sections, b"")
            export.section = section
        reply = messages.exported(asked, export.body, whole=export.was_whole)
        if len(reply) > self._reply_bytes_max:
            raise InputError(
                f"export: expected at most {self._reply_bytes_max} bytes a section, got {len(reply)}"
            )
        return reply

    def _drop_idle(self) -> None:
        before_s = self._clock_s() - IDLE_S_MAX
        for number in [number for number, one in self._exports.items() if one.asked_s < before_s]:
            del self._exports[number]
            self._count("exports_given_up")
