"""Bodies that callers get."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from kvatlas.index.choosing.serving import ServingPod
from kvatlas.index.scores import Scores
from kvatlas.index.view import WorkerView


class WorkerScore(msgspec.Struct, frozen=True, kw_only=True):
    """What one worker has of a prompt."""

    pod: str
    rank: int
    """Data-parallel rank."""
    blocks: int
    """Leading blocks that count."""
    tier_blocks: dict[str, int]
    """The same by tier."""
    score: float
    cached_tokens: int
    """What the server is predicted to reuse."""
    truth: str
    """How far that can be relied on, such as "EXACT"."""


class ScoreAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Pods that hold some of a prompt, and how much."""

    model: str
    scores: dict[str, float]
    """By pod. One that holds nothing is not among them."""
    workers: tuple[WorkerScore, ...]
    """Best first."""
    prompt_blocks: int
    """Full blocks of the prompt."""
    block_size_tokens: int
    """0: no server has announced this model."""
    is_whole: bool
    """False: a part of the index is missing just now; workers may hold more."""


class PodWorker(msgspec.Struct, frozen=True, kw_only=True):
    """One worker of a pod, as its events tell."""

    rank: int
    state: str
    """EXACT, PARTIAL, DEGRADED or BLIND."""
    doubts: tuple[str, ...]
    """Why not better."""


class PodAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """One pod."""

    pod: str
    model: str
    url: str | None
    role: str
    labels: dict[str, str]
    node: str
    is_draining: bool
    workers: tuple[PodWorker, ...]
    """Those that have been heard."""


class PodsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """All pods."""

    pods: tuple[PodAnswer, ...]


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """Feedback was taken."""

    request_id: str


class ReadyAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Whether it can be asked."""

    is_ready: bool
    says: str = ""
    """Why not."""
    grpc: tuple[str, ...] = ()
    """Where this replica listens for gRPC."""


class ErrorTold(msgspec.Struct, frozen=True, kw_only=True):
    """What went wrong."""

    type: str
    """For programs, such as `invalid_request`."""
    message: str
    """For people: what was expected, and what came."""
    where: str = ""
    """The place in the request."""


class ErrorAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The body of every answer with a status of 400 and more."""

    error: ErrorTold


def score_answer(model: str, scores: Scores) -> ScoreAnswer:
    workers = tuple(
        WorkerScore(
            pod=match.pod,
            rank=match.rank,
            blocks=match.blocks,
            tier_blocks=match.tier_blocks,
            score=match.score,
            cached_tokens=match.cached_tokens,
            truth=match.truth,
        )
        for match in scores.matches
    )
    return ScoreAnswer(
        model=model,
        scores=dict(scores),
        workers=workers,
        prompt_blocks=scores.prompt_blocks,
        block_size_tokens=scores.block_size_tokens,
        is_whole=scores.is_whole,
    )


def pods_answer(serving: Mapping[str, ServingPod], views: Sequence[WorkerView]) -> PodsAnswer:
    """Pods that requests can be sent to, and those of which only events are known."""
    heard: dict[str, list[WorkerView]] = {}
    for view in views:
        heard.setdefault(view.pod, []).append(view)
    names = sorted({*serving, *heard})
    return PodsAnswer(pods=tuple(_pod(name, serving.get(name), heard.get(name, ())) for name in names))


def _pod(name: str, known: ServingPod | None, views: Sequence[WorkerView]) -> PodAnswer:
    known = known or ServingPod(pod=name, model=views[0].model)
    serving = known.serving
    return PodAnswer(
        pod=name,
        model=known.model,
        url=serving.url,
        role=serving.role,
        labels=known.labels,
        node=known.node,
        is_draining=serving.is_draining,
        workers=tuple(PodWorker(rank=view.rank, state=view.state, doubts=view.doubts) for view in views),
    )
