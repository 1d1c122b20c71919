"""Real model servers followed live: the blocks they announce, and how much of a prompt they hold."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import msgspec

from kvatlas.cluster.following.arrivals import Arrivals
from kvatlas.cluster.following.atlas_counts import blocks_by_pod, events_ingested
from kvatlas.index.errors import ConfigError, KvatlasError
from kvatlas.ingest.atlas import Atlas
from kvatlas.ingest.sockets.source_config import SourceConfig
from kvatlas.ingest.sockets.subscriber import Subscriber

UNNAMED_MODEL = "unnamed"
"""Of a server whose topic names none, unless the configuration does."""

_REDRAW_S = 0.25
_BATCHES_KEPT = 6
_ENDPOINT = re.compile(r"tcp://(?P<place>[^\s@/]+:(?P<port>\d{1,5}|\*))|ipc://(?P<path>[^\s@]+)")


class NothingAnnouncedError(KvatlasError):
    """No server said anything in the time given."""


class WatchConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Whom to follow, for how long, and what to score meanwhile."""

    endpoints: tuple[str, ...] = ()
    """Publishers to connect to."""
    listen: str | None = None
    """Where to listen for publishers that dial."""
    model: str | None = None
    """Of servers whose topic names none; and whose keyspace `prompt` is scored in."""
    pod_ids: tuple[str, ...] = ()
    """Of servers whose topic names none, in the order of `endpoints`; by default HOST:PORT."""
    seconds: float | None = None
    """None: until interrupted."""
    prompt: tuple[int, ...] = ()
    """Token ids to score again and again."""


class PodSummary(msgspec.Struct, frozen=True):
    """What a pod holds."""

    blocks: dict[str, int]
    """Tier -> blocks."""


class WatchSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen so far."""

    pods: dict[str, PodSummary]
    connections: int
    batches: int
    events: int
    stores: dict[str, int]
    """Shared place of KV files -> blocks."""
    orphans: int
    """Stores that wait for a parent block, most often one announced before the watch began."""
    skips: dict[str, int]
    """Reason -> events and blocks that were not applied."""
    scores: dict[str, float]
    """Of the prompt, by pod; pods that hold nothing of it are absent."""


class Watch:
    """An atlas and a subscriber of all servers; a context manager.

    Raises ConfigError for endpoints and names that cannot be used.
    """

    def __init__(self, config: WatchConfig) -> None:
        if len(config.pod_ids) > len(config.endpoints):
            raise ConfigError(
                f"pod ids: expected at most one for each of {len(config.endpoints)} endpoints, "
                f"got {len(config.pod_ids)}"
            )
        self.config = config
        self.atlas = Atlas()
        self.arrivals = Arrivals(self.atlas, kept=_BATCHES_KEPT)
        self.started_s = time.monotonic()
        self._subscriber: Subscriber | None = None

    def __enter__(self) -> Watch:
        self._subscriber = Subscriber(self.arrivals, self._sources()).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.stop()

    @property
    def endpoints(self) -> list[str]:
        """One a server, with the port that the system chose where it was left open."""
        return list(self._opened.endpoints)

    def follow(self, show: Callable[[Watch], None]) -> WatchSummary:
        """Calls `show` about four times a second until the time is up or the user interrupts.

        Raises NothingAnnouncedError when no batch has come by then.
        """
        try:
            while (left_s := self._left_s()) > 0:
                self._opened.wait_until(lambda _: False, min(left_s, _REDRAW_S))
                show(self)
        except KeyboardInterrupt:  # how a watch without a time ends
            pass
        summary = self.summary()
        if summary.batches == 0:
            raise NothingAnnouncedError(self._silence(summary))
        return summary

    def summary(self) -> WatchSummary:
        subscribed = self._opened.statistics()
        statistics = self.atlas.statistics()
        blocks = blocks_by_pod(statistics)
        return WatchSummary(
            pods={pod: PodSummary(tiers) for pod, tiers in sorted(blocks.items())},
            connections=subscribed.connections,
            batches=subscribed.batches,
            events=events_ingested(statistics),
            stores=statistics.stores,
            orphans=sum(worker.orphans for worker in statistics.workers),
            skips={
                **statistics.skips,
                "bad_frames": subscribed.bad_frames + subscribed.bad_sequence,
                "refused_batches": subscribed.refused,
            },
            scores=self._scores(list(statistics.models)),
        )

    @property
    def _opened(self) -> Subscriber:
        assert self._subscriber is not None, "a watch is used as a context manager"
        return self._subscriber

    def _sources(self) -> list[SourceConfig]:
        model = self.config.model or UNNAMED_MODEL
        sources = [
            SourceConfig(endpoint=endpoint, pod=self._pod_id(number, endpoint), model=model)
            for number, endpoint in enumerate(self.config.endpoints)
        ]
        listen = self.config.listen
        if listen is not None:
            sources.append(SourceConfig(endpoint=listen, bind=True, pod=_place(listen), model=model))
        return sources

    def _pod_id(self, number: int, endpoint: str) -> str:
        place = _place(endpoint)
        if number >= len(self.config.pod_ids):
            return place
        pod_id = self.config.pod_ids[number]
        if not pod_id or "@" in pod_id:
            raise ConfigError(f"pod id: expected a name without '@', got {pod_id!r}")
        return pod_id

    def _left_s(self) -> float:
        if self.config.seconds is None:
            return _REDRAW_S
        return self.started_s + self.config.seconds - time.monotonic()

    def _scores(self, announced: list[str]) -> dict[str, float]:
        scores: dict[str, float] = {}
        if self.config.prompt:
            for model in [self.config.model] if self.config.model else announced:
                scores.update(self.atlas.score(self.config.prompt, model=model))
        return dict(sorted(scores.items()))

    def _silence(self, summary: WatchSummary) -> str:
        where = ", ".join((*self.config.endpoints, *filter(None, [self.config.listen])))
        seconds = f"{time.monotonic() - self.started_s:.1f} s"
        if summary.connections > 0:
            return (
                f"{where}: connected, but nothing announced in {seconds}; "
                "events come with requests, an idle server sends none"
            )
        if self.config.listen is not None:
            return f"{where}: nobody dialled in {seconds}"
        return (
            f"{where}: nobody there in {seconds}; does the server publish KV events at this port? "
            "One whose endpoint has no '*' dials out: then --listen instead of --pod"
        )


def _place(endpoint: str) -> str:
    """HOST:PORT, or the path of an ipc endpoint; raises ConfigError when it is neither."""
    found = _ENDPOINT.fullmatch(endpoint)
    if found is None or not (found["path"] or found["port"] == "*" or 0 < int(found["port"]) < 65536):
        raise ConfigError(f"endpoint: expected tcp://HOST:PORT, got {endpoint!r}")
    return found["place"] or found["path"]
