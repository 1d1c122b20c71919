"""What one shard held at one moment, fetched from it in sections."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, wait
from concurrent.futures import TimeoutError as FutureTimeoutError

from kvatlas.actors.link.link import LinkError, ShardLink
from kvatlas.actors.link.messages import (
    Address,
    Kind,
    Message,
    begin_export,
    decode_message,
    end_export,
    export_section,
    totals_of,
)
from kvatlas.index.errors import ClusterError

_END_S_MAX = 1.0


class ShardExport:
    """What one shard held, on its way out. Raises ClusterError where the shard does not answer."""

    def __init__(self, link: ShardLink, to: Address, number: int, timeout_s: float) -> None:
        self.shard = to.shard
        self.entries = self.pairs = 0
        """Blocks; pairs of a block and a lane."""
        self._link = link
        self._to = to
        self._number = number
        self._timeout_s = timeout_s

    def begin(self, within_s: float = math.inf) -> Future[bytes]:
        """`within_s`: when a copy would come too late."""
        return self._link.request(begin_export(self._to, self._number), min(within_s, self._timeout_s))

    def begun(self, answer: Future[bytes]) -> None:
        """Takes the answer to `begin`; raises ClusterError also where the shard was not whole."""
        message = self._exported(answer)
        if not message.is_whole:
            raise ClusterError(f"shard {self.shard}: expected all content in it, it is being filled")
        self.entries, self.pairs = totals_of(message)

    def sections(self) -> Iterator[bytes]:
        """Content records, the next one asked for while one is used; ends the export with the last."""
        asked, number = self._ask(0), 0
        while body := bytes(self._exported(asked).body):
            number += 1
            asked = self._ask(number)
            yield body
        self.end()

    def end(self) -> Future[bytes]:
        """Let go of it, all given away or not; the shard would do so by itself after a while."""
        return self._link.request(end_export(self._to, self._number), self._timeout_s)

    def _ask(self, section: int) -> Future[bytes]:
        return self._link.request(export_section(self._to, self._number, section), self._timeout_s)

    def _exported(self, answer: Future[bytes]) -> Message:
        try:
            message = decode_message(answer.result(self._timeout_s + 1))
        except (LinkError, TimeoutError, FutureTimeoutError) as error:
            raise ClusterError(f"shard {self.shard}: expected its content, no answer: {error}") from error
        if message.kind is not Kind.EXPORTED:
            raise ClusterError(
                f"shard {self.shard}: expected its content, got {message.kind.name}: {message.text}"
            )
        return message


def end_exports(exports: Iterable[ShardExport]) -> None:
    """Have shards let go of them; a moment is waited, so that whoever closes the links next has told them."""
    wait([export.end() for export in exports], _END_S_MAX)
