"""Which workers of a fleet may serve a request, and why others may not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from kvatlas.index.choosing.ask import Ask
from kvatlas.index.choosing.serving import Role, ServingPod
from kvatlas.index.reading import Fleet
from kvatlas.index.view import WorkerView


class Candidate(NamedTuple):
    """A worker that requests can be sent to."""

    pod: str
    rank: int
    serves: ServingPod
    view: WorkerView | None
    """None: nobody has heard its events."""

    @property
    def truth(self) -> str:
        """How far its matches can be relied on."""
        return self.view.state if self.view is not None else "BLIND"


def workers_of(model: str, fleet: Fleet, pods: Mapping[str, ServingPod]) -> Iterator[Candidate]:
    """The workers of a model: those that are heard, and those that a pod's description says it has.

    A described rank counts while fewer ranks of its pod are heard than it has: the one rank of a pod
    need not be number 0.
    """
    heard: dict[str, set[int]] = {}
    for view in fleet.views(model):
        serves = pods.get(view.pod)
        if serves is not None and serves.model == model:
            heard.setdefault(view.pod, set()).add(view.rank)
            yield Candidate(view.pod, view.rank, serves, view)
    for pod, serves in pods.items():
        if serves.model != model:
            continue
        ranks = heard.get(pod, set())
        missing = serves.serving.ranks - len(ranks)
        for rank in range(serves.serving.ranks):
            if missing > 0 and rank not in ranks:
                missing -= 1
                yield Candidate(pod, rank, serves, None)


def why_not(candidate: Candidate, ask: Ask, role: Role | None, without: frozenset[str]) -> str:
    """Why a worker may not serve the request; empty: it may."""
    serves, serving = candidate.serves, candidate.serves.serving
    if serving.is_draining:
        return "it is draining"
    if ask.pods is not None and candidate.pod not in ask.pods:
        return "it is none of the pods asked for"
    if candidate.pod in without:
        return "it was left out"
    if role is not None and serving.role not in (role, "both"):
        return f"its role is {serving.role}"
    if ask.lora and serving.adapters is not None and ask.lora not in serving.adapters:
        return f"it does not serve the adapter {ask.lora!r:.80}"
    for label, value in ask.labels.items():
        if serves.labels.get(label) != value:
            return f"its label {label!r:.80} is not {value!r:.80}"
    return ""
