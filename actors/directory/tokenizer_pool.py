"""The tokenizers of a cluster, as its directory knows them: who is up, and how many there should be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from kvatlas.actors.directory.settings import DirectorySettings
from kvatlas.actors.orders import TokenizerReport
from kvatlas.tokenize.pool.scaling import PoolLoad, ScalingRule


@dataclass
class Member:
    """A tokenizer that has reported."""

    report: TokenizerReport
    heard_s: float
    is_up: bool = True
    """False while it is silent: it is not asked."""


class TokenizerPool:
    """Tokenizers 0 to `wanted`. What it knows comes with their reports, also after it was lost.

    One thread at a time.
    """

    def __init__(
        self, settings: DirectorySettings, *, is_restarted: bool, clock_s: Callable[[], float]
    ) -> None:
        """`is_restarted`: there may be some that an earlier directory has wanted; they are kept at first."""
        self.counts: Counter[str] = Counter()
        self._rule = ScalingRule(settings.tokenizers, clock_s)
        self._silent_s_max = settings.deadlines.session_lost_s
        self._clock_s = clock_s
        self._members: dict[int, Member] = {}
        warm_s = settings.deadlines.warm_s_max if is_restarted else 0.0
        self._adopts_until_s = clock_s() + warm_s

    @property
    def wanted(self) -> int:
        return self._rule.wanted

    @property
    def members(self) -> list[Member]:
        return list(self._members.values())

    @property
    def numbers(self) -> tuple[int, ...]:
        """Those that can be asked, in order."""
        return tuple(sorted(number for number, member in self._members.items() if member.is_up))

    def hear(self, report: TokenizerReport) -> bool:
        """Takes a report; false: this one is not wanted."""
        now_s = self._clock_s()
        if report.number >= self.wanted and now_s < self._adopts_until_s:
            self._rule.adopt(report.number + 1)
        if report.number >= self.wanted:
            self.counts["tokenizers_dismissed"] += 1
            return False
        self._members[report.number] = Member(report, now_s)
        return True

    def tick(self) -> None:
        """Notices who is silent, and judges how many there should be."""
        now_s = self._clock_s()
        for member in self._members.values():
            if member.is_up and now_s - member.heard_s > self._silent_s_max:
                member.is_up = False
                self.counts["tokenizers_silent"] += 1
        before = self.wanted
        wanted = self._rule.step(_load(one.report) for one in self._members.values() if one.is_up)
        self.counts["tokenizers_added"] += max(0, wanted - before)
        self.counts["tokenizers_removed"] += max(0, before - wanted)
        self._members = {number: one for number, one in self._members.items() if number < wanted}


def _load(report: TokenizerReport) -> PoolLoad:
    return PoolLoad(report.threads, report.waiting, report.busy_share, report.refused)
