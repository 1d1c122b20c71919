"""Limits and timers of a subscriber's sockets. Each has a unit and a default."""

from __future__ import annotations

import msgspec

from kvatlas.index.errors import ConfigError


class SubscriberConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a subscriber may hold, and how long it waits. What to ask when is in `StreamLimits`.

    Raises ConfigError for values out of range, with their name.
    """

    # Live batches.
    messages_max: int = 10_000
    """Messages of one publisher that wait in ZeroMQ here. Beyond that they wait at the publisher, and
    beyond its own limit are dropped: a gap that is asked for."""
    message_bytes_max: int = 64 << 20
    """Bytes of a frame; a publisher or replay socket that sends a longer one is disconnected."""
    burst_messages: int = 128
    """Messages that one socket, or one answer, may have applied before others have their turn."""
    burst_bytes: int = 1 << 20
    """Their bytes, at least one message."""
    sources_max: int = 4096
    """Sources at one time; each takes up to four file descriptors, one more per publisher that dials."""

    # Replay.
    replays_at_once: int = 8
    """Replay requests in flight; others wait. Peers whose last answer failed share half of them."""
    replay_bytes_max: int = 256 << 20
    """Bytes of all answers that have come and wait to be applied. The answer that would exceed it is
    cut there; one message of each answer is always taken."""
    replay_messages_max: int = 100_000
    """Messages of an answer that wait in ZeroMQ. More than a server keeps (`buffer_steps`, 10 000 by
    default), or answers get holes."""
    replay_connect_s_max: float = 2.0
    """Time to reach a replay socket, after which a request has failed."""

    # Connections.
    reconnect_s_min: float = 0.1
    """Pause before a broken connection is tried again; doubled each time."""
    reconnect_s_max: float = 1.0
    """The longest such pause."""
    heartbeat_s: float = 5.0
    """Time between two questions whether the other end is there; 0: never asked, and a machine that
    is gone without a word stays connected."""
    heartbeat_s_max: float = 15.0
    """Without an answer for so long, a connection is broken."""
    settle_s: float = 1.0
    """On a socket that listens, connections that come and go within this time are one disturbance:
    nobody says whose they are, so all its workers are asked about."""
    tick_s: float = 0.1
    """Time between two looks at all timers."""

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value, least = getattr(self, name), _LEAST.get(name, 0.001 if "_s" in name[-6:] else 1)
            wanted = (int, float) if isinstance(_DEFAULTS[name], float) else int
            if isinstance(value, bool) or not isinstance(value, wanted) or not least <= value <= 1 << 40:
                raise ConfigError(f"{name}: expected a number of at least {least}, got {value!r}")
        for low, high in (("reconnect_s_min", "reconnect_s_max"), ("heartbeat_s", "heartbeat_s_max")):
            if getattr(self, low) > getattr(self, high):
                raise ConfigError(f"{low}: expected at most {high}, got {getattr(self, low)!r}")


_LEAST = {"heartbeat_s": 0}
_DEFAULTS = dict(zip(SubscriberConfig.__struct_fields__, SubscriberConfig.__struct_defaults__, strict=True))
