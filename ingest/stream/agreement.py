"""Whether a worker reuses what the index predicts."""

from __future__ import annotations

from collections import deque

import msgspec

from kvatlas.index.errors import ConfigError


class AgreementLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When predictions that fail are a doubt. Raises ConfigError for values out of range."""

    window_requests: int = 32
    """The last comparisons that count; those where neither side reuses anything do not."""
    wrong_max: int = 2
    """Wrong ones among them, of one kind, that are put down to events on their way."""

    def __post_init__(self) -> None:
        if not 1 <= self.window_requests <= 1 << 20:
            raise ConfigError(f"window_requests: expected 1 to {1 << 20}, got {self.window_requests!r}")
        if not 0 <= self.wrong_max < self.window_requests:
            raise ConfigError(f"wrong_max: expected less than window_requests, got {self.wrong_max!r}")


class Agreement:
    """The last comparisons of predicted with actual reuse. Thread safety: none."""

    def __init__(self, limits: AgreementLimits) -> None:
        self._limits = limits
        self._differences: deque[int] = deque(maxlen=limits.window_requests)
        self.compared = self.wrong = 0
        """Comparisons, and those that differed, ever."""

    def note(self, predicted_tokens: int, actual_tokens: int) -> None:
        if predicted_tokens == actual_tokens == 0:
            return
        self.compared += 1
        self.wrong += predicted_tokens != actual_tokens
        self._differences.append(predicted_tokens - actual_tokens)

    def forget(self) -> None:
        """What is predicted now comes from other content."""
        self._differences.clear()

    @property
    def overpredicted(self) -> str:
        """What is wrong, where it reused less than predicted too often; else empty."""
        return self._judge(sum(difference > 0 for difference in self._differences))

    @property
    def underpredicted(self) -> str:
        """The same where it reused more."""
        return self._judge(sum(difference < 0 for difference in self._differences))

    def _judge(self, n_wrong: int) -> str:
        if n_wrong <= self._limits.wrong_max:
            return ""
        return f"{n_wrong} of the last {len(self._differences)} requests"
