"""What came of routing the same traffic in one way: request by request, and in sum."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray


class RequestOutcome(msgspec.Struct, frozen=True):
    """One request, after its server has served it."""

    pod: int
    prompt_tokens: int
    predicted_tokens: int
    """That the atlas expected the chosen pod to reuse."""
    cached_tokens: int
    """That the pod did reuse."""
    decision_s: float
    """From the token ids to the choice of a pod."""


class RunReport:
    """The outcomes of one run so far; grows with `add`.

    `policy` names how requests were routed; `pods` is how many there were to choose from.
    """

    def __init__(self, policy: str, pods: int) -> None:
        self.policy = policy
        self.outcomes: list[RequestOutcome] = []
        self.requests_by_pod = [0] * pods
        self.prompt_tokens_by_pod = [0] * pods
        self.cached_tokens_by_pod = [0] * pods
        self.exact_predictions = 0
        self.events = 0
        """Ingested by the atlas during the run."""
        self.evictions = 0
        """Blocks that the pods dropped to make room."""
        self.seconds = 0.0
        """How long the run took."""

    def add(self, outcome: RequestOutcome) -> None:
        self.outcomes.append(outcome)
        self.requests_by_pod[outcome.pod] += 1
        self.prompt_tokens_by_pod[outcome.pod] += outcome.prompt_tokens
        self.cached_tokens_by_pod[outcome.pod] += outcome.cached_tokens
        self.exact_predictions += outcome.predicted_tokens == outcome.cached_tokens

    @property
    def requests(self) -> int:
        return len(self.outcomes)

    @property
    def prompt_tokens(self) -> int:
        return sum(self.prompt_tokens_by_pod)

    @property
    def cached_tokens(self) -> int:
        """Prefill that was saved."""
        return sum(self.cached_tokens_by_pod)

    @property
    def prefill_tokens(self) -> int:
        """Prefill that had to be computed."""
        return self.prompt_tokens - self.cached_tokens

    @property
    def hit_rate(self) -> float:
        """Share of all prompt tokens that were reused."""
        return self.cached_tokens / max(self.prompt_tokens, 1)

    @property
    def exact_share(self) -> float:
        """Share of requests whose prediction was right to the token."""
        return self.exact_predictions / max(self.requests, 1)

    @property
    def busiest_share(self) -> float:
        """Share of the requests that went to the pod with the most of them."""
        return max(self.requests_by_pod) / max(self.requests, 1)

    def decisions_s(self) -> NDArray[np.float64]:
        """[n_requests]"""
        return np.array([outcome.decision_s for outcome in self.outcomes], dtype=np.float64)

    def decision_quantiles_s(self, quantiles: Sequence[float]) -> list[float]:
        """[n_quantiles]; zeros before the first request."""
        if not self.outcomes:
            return [0.0] * len(quantiles)
        return [float(q) for q in np.quantile(self.decisions_s(), quantiles)]

    def moving_hit_rate(self, window: int) -> NDArray[np.float64]:
        """The hit rate over the last `window` requests, after each request [n_requests]."""
        prompt = np.cumsum([outcome.prompt_tokens for outcome in self.outcomes])
        cached = np.cumsum([outcome.cached_tokens for outcome in self.outcomes])
        prompt[window:] -= prompt[:-window].copy()
        cached[window:] -= cached[:-window].copy()
        rates: NDArray[np.float64] = cached / prompt
        return rates
