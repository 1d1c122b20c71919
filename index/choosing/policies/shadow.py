"""A policy that is evaluated on live requests, and only counted."""

from __future__ import annotations

import threading

import msgspec

from kvatlas.index._native import Decision, LoadBook
from kvatlas.index.choosing.policies.judge import Case, Judge, Verdict
from kvatlas.index.choosing.policies.policy import load_policy
from kvatlas.index.choosing.settings import ChoosingConfig


class ShadowStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """How a policy that was not followed would have decided."""

    policy: str
    choices: int = 0
    agreed: int = 0
    """It would have taken the same worker."""
    refused: int = 0
    """It would have taken none: all saturated."""
    failed: int = 0
    """It raised, or gave costs that are none; those are not among `choices`."""
    predicted_tokens: int = 0
    """What the workers that were taken were predicted to reuse."""
    shadow_predicted_tokens: int = 0
    """What those that it would have taken were."""


class Shadow:
    """Decides the same requests with another policy. Any thread may call it.

    It is asked before the real choice, of the same loads, and reserves nothing: what is counted says how
    often it differs, not how the fleet would fare under it.
    """

    def __init__(self, book: LoadBook, config: ChoosingConfig) -> None:
        """Raises ConfigError where the policy cannot be loaded."""
        policy = load_policy(config.shadow_policy, config.policy_options, "choosing.shadow_policy")
        self._judge = Judge(policy, book, config)
        self._lock = threading.Lock()
        self._counts = ShadowStatistics(policy=policy.name)

    def decide(self, case: Case) -> Verdict | None:
        """What it would do; None where it failed."""
        verdict = self._judge.decide(case, "", reserve=False)
        return None if verdict.reason else verdict

    def count(self, shadow: Decision, taken: Decision) -> None:
        """Compare with what was done."""
        with self._lock:
            was = self._counts
            self._counts = ShadowStatistics(
                policy=was.policy,
                choices=was.choices + 1,
                agreed=was.agreed + (shadow.row == taken.row),
                refused=was.refused + (shadow.row < 0),
                predicted_tokens=was.predicted_tokens + max(taken.cached_tokens, 0),
                shadow_predicted_tokens=was.shadow_predicted_tokens + max(shadow.cached_tokens, 0),
            )

    def statistics(self) -> ShadowStatistics:
        """Counts since the start."""
        return msgspec.structs.replace(self._counts, failed=self._judge.failed)
