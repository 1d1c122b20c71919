"""A way to ask one shard, whatever carries the question."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Protocol

import msgspec

from kvatlas.index.errors import ConfigError, KvatlasError


class LinkError(KvatlasError):
    """A request has no answer: nobody there, too slow, connection broke, no room, closed."""


class LinkSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What links may hold, and how long they wait. Raises ConfigError for values out of range."""

    message_bytes_max: int = 64 << 20
    """Bytes of a frame. A peer that sends a longer one is disconnected."""
    in_flight_max: int = 8
    """Requests of one link that wait for an answer; more fail at once."""
    peer_messages_max: int = 64
    """Frames of one peer that wait in ZeroMQ at the shard, and answers for it. More requests wait at
    the peer; more answers are dropped, and the peer's requests run out of time."""
    queue_max: int = 256
    """Writes that wait at the shard behind a long one; more are refused."""
    queue_bytes_max: int = 256 << 20
    """Their bytes."""
    inline_bytes_max: int = 256 << 10
    """A write up to this size is done at once; longer ones, and those of the same session behind them,
    have a thread of their own, so that fetches need not wait."""
    reconnect_s_min: float = 0.02
    """Pause before a broken connection is tried again; doubled each time."""
    reconnect_s_max: float = 0.5
    """The longest such pause."""
    heartbeat_s: float = 2.0
    """Time between two questions of ZeroMQ whether the other end is there."""
    heartbeat_s_max: float = 10.0
    """Without an answer for so long, a connection is broken."""

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            least = 0.001 if isinstance(value, float) else 1
            if isinstance(value, bool) or not least <= value <= 1 << 31:
                raise ConfigError(f"link.{name}: expected a number of at least {least}, got {value!r}")


class LinkStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """What has gone over a link so far."""

    asked: int
    """Requests taken."""
    answered: int
    failed: int
    """Requests that ended in a LinkError."""
    late: int
    """Answers that came when nobody waited for them any more."""
    in_flight: int
    connections: int
    """1 while connected; where there are no connections, always 1."""
    said: str
    """Why the last request failed."""


class ShardLink(Protocol):
    """Asks one process that holds a shard. Any thread may call it."""

    def request(self, frame: bytes, timeout_s: float) -> Future[bytes]:
        """The answer's frame, or LinkError on the future; `timeout_s` includes connecting.

        The future's callbacks run on a thread that all links share: they should be short.
        """
        ...

    def close(self) -> None:
        """Requests that wait fail. Twice is fine."""
        ...


class CountedLink(ShardLink, Protocol):
    """One that says what has gone over it."""

    def statistics(self) -> LinkStatistics: ...
