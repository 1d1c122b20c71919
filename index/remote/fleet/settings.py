"""How processes that share an index in a server live together there."""

from __future__ import annotations

import msgspec

from kvatlas.index.errors import ConfigError

LANES_IN_CHUNK = 32
CHUNKS_MAX = 2047
"""Of lanes, and of worker numbers: 65 504 of each in one index."""
PART_BYTES_MAX = 8 << 20


class SharingSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Sessions, parts and their times. Raises ConfigError for values out of range, with their path."""

    lease_s: float = 15.0
    """A writer that the server has not heard for so long is over: its blocks are removed. It is heard three
    times in it. At least 0.5."""
    lane_rest_s: float = 60.0
    """Lanes given back are nobody's for so long: more than any reader's `trust_s`."""
    refresh_s: float = 1.0
    """A reader asks so often who there is, besides when an answer says that something has changed."""
    trust_s: float = 5.0
    """A reader that has not reached the server for so long vouches for nothing any more."""
    gather_s: float = 0.002
    """Changes wait so long for others to go with them."""
    gathered_bytes_max: int = 64 << 20
    """Bytes of changes that wait for the server; beyond, they are dropped, and all is loaded anew."""
    batch_bytes_max: int = 1 << 20
    """Bytes of changes in one request, about."""
    retry_s_max: float = 2.0
    """Longest pause after a failure; the first is 0.05 s, each further one doubles."""
    full_retry_s: float = 10.0
    """A server whose memory is full is tried again after so long; it doubles each time, up to 300 s."""

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value < 1e12:
                raise ConfigError(f"sharing.{name}: expected a number of at least {least}, got {value!r}")
        if self.lane_rest_s <= self.trust_s:
            raise ConfigError(
                f"sharing.lane_rest_s: expected more than trust_s ({self.trust_s}), got {self.lane_rest_s}"
            )


_LEAST = {
    "lease_s": 0.5,
    "lane_rest_s": 0.1,
    "refresh_s": 0.01,
    "trust_s": 0.05,
    "gather_s": 0,
    "gathered_bytes_max": 4096,
    "batch_bytes_max": 4096,
    "retry_s_max": 0.01,
    "full_retry_s": 0.05,
}
