"""Limits and timers of a worker's stream of batches. Each has a unit and a default."""

from __future__ import annotations

import msgspec

from kvatlas.index.errors import ConfigError


class StreamLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When to ask a replay socket, how long to wait for it, how much to keep meanwhile.

    Raises ConfigError for values out of range, with their name.
    """

    confirm_after_s: float = 2.0
    """Silence after which the replay socket is asked whether a tail was lost. Without a replay
    socket: after which the tail is in doubt."""
    confirm_every_s: float = 10.0
    """And then again and again, while the silence lasts."""
    join_s: float = 0.25
    """After a connection stands, and all that was published before has been asked for, it is asked
    once more at this time: batches may have been published before the subscription stood."""
    blind_after_s: float = 30.0
    """Without an event and without an answer for so long, a worker is BLIND."""
    answer_s_max: float = 5.0
    """Pause in an answer, or before it, after which it has failed."""
    replay_s_max: float = 120.0
    """Length of an answer; a longer one has failed. What was applied of it counts."""
    retry_s_min: float = 0.1
    """Pause after a failed answer; doubled each time."""
    retry_s_max: float = 10.0
    """The longest such pause."""
    answers_failed_max: int = 3
    """Failed answers after which live batches are applied again, in doubt."""
    hole_answers: int = 2
    """Complete answers without a batch after which that batch was never published."""
    buffer_batches_max: int = 10_000
    """Live batches that wait for the end of a replay; the newest are dropped beyond, and asked for."""
    buffer_bytes_max: int = 64 << 20
    """Their bytes."""
    incarnations_max: int = 5
    """Engine restarts within `contested_s` beyond which two publishers seem to be at work."""
    contested_s: float = 60.0
    """How long ago a restart, or a batch of another publisher, counts."""

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value, least = getattr(self, name), 0.001 if name.endswith("_s") or "_s_" in name else 1
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= least:
                raise ConfigError(f"{name}: expected a number of at least {least}, got {value!r}")
        if self.retry_s_min > self.retry_s_max:
            raise ConfigError(f"retry_s_min: expected at most retry_s_max, got {self.retry_s_min!r}")
