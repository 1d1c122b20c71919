"""Settings of a subscriber. Each has a unit and a default."""

from __future__ import annotations

from typing import Literal

import msgspec

from kvatlas.actors.link.link import LinkSettings
from kvatlas.actors.subscriber.replica_feed import FeedLimits
from kvatlas.index.errors import ConfigError
from kvatlas.ingest.config import AtlasConfig
from kvatlas.ingest.sockets.subscriber_config import SubscriberConfig


def _check_s(path: str, value: object, least: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= 1e9:
        raise ConfigError(f"{path}: expected a number of seconds, got {value!r}")


class OutboxSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How changes go out. Raises ConfigError for values out of range."""

    feed: FeedLimits = FeedLimits()
    request_s_max: float = 5.0
    """Time for an answer of a shard, after which it is asked what it has."""
    gather_s: float = 0.001
    """Time between two looks at what has come, at least: what comes in between goes together."""

    def __post_init__(self) -> None:
        for name in ("request_s_max", "gather_s"):
            _check_s(f"outbox.{name}", getattr(self, name), 0.0)


class SubscriberSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What a subscriber's process is made with. Raises ConfigError for values out of range."""

    atlas: AtlasConfig = AtlasConfig()
    sockets: SubscriberConfig = SubscriberConfig()
    checkpoint_folder: str | None = None
    """Where checkpoints go, each subscriber's in a folder of its name; None: no checkpoints."""
    checkpoint_s: float = 60.0
    """Time between two checkpoints."""
    gathered_bytes_max: int = 64 << 20
    """Changes that wait to be routed; beyond, all shards are loaded anew."""
    outbox: OutboxSettings = OutboxSettings()
    settle_s: float = 3.0
    """After a start, time in which the workers known from before should have been heard."""
    transport: Literal["zmq", "ray"] = "zmq"
    """How changes travel to shards that say no endpoint: only by Ray calls."""
    link: LinkSettings = LinkSettings()
    report_s: float = 1.0
    """Time between two reports to the directory; sooner when the workers change."""
    view_wait_s: float = 5.0
    """How long a question for a newer view may wait at the directory."""
    call_s_max: float = 5.0
    """Time for an answer of the directory, beyond what it was asked to wait."""
    lane_rest_s: float = 60.0
    """How long a lane given back is not used again."""
    owned: bool = False
    """It ends when the directory's name is gone for `directory_gone_s_max`."""
    directory_gone_s_max: float = 10.0

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            if name.endswith(("_s", "_s_max")):
                _check_s(f"subscriber.{name}", getattr(self, name), 0.001)
        if self.outbox.feed.message_bytes_max > self.link.message_bytes_max // 2:
            raise ConfigError(
                "subscriber.outbox.feed.message_bytes_max: expected at most half of link.message_bytes_max, "
                f"{self.link.message_bytes_max}, got {self.outbox.feed.message_bytes_max!r}"
            )
        if self.gathered_bytes_max < 1 << 16:
            raise ConfigError(
                f"subscriber.gathered_bytes_max: expected at least 65536, got {self.gathered_bytes_max!r}"
            )
