"""An atlas with a subscriber, as it stands before one publisher."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kvatlas import Atlas, AtlasConfig, PodConfig
from kvatlas.ingest.atlas_statistics import WorkerStatistics
from kvatlas.ingest.sockets.source_config import SourceConfig
from kvatlas.ingest.sockets.subscriber import Subscriber
from kvatlas.ingest.stream.limits import StreamLimits
from tests.e2e.publishers.publisher import MODEL, POD, Publisher
from tests.e2e.publishers.said import HASH_SEED, Said, prompt

WAIT_S = 15.0
SOON = StreamLimits(confirm_after_s=0.1, confirm_every_s=0.2)
"""Asks whether a tail was lost as soon as nothing comes."""
NEVER = StreamLimits(confirm_after_s=3600.0, confirm_every_s=3600.0)
"""Never asks out of idleness: a test sees what else makes it ask."""


class Listener:
    """A context manager. What it hears is worker (POD, `rank`).

    Pod and model are told to it, as somebody must where the replies of a release have no topic.
    """

    def __init__(
        self, endpoint: str, replay_endpoint: str | None, *, limits: StreamLimits = SOON, **source: Any
    ) -> None:
        pods = {POD: PodConfig(offloads=False)}  # so a clear heals all that was missed
        self.atlas = Atlas(AtlasConfig(hash_seed=HASH_SEED, stream=limits, pods=pods))
        self._rank = source.get("rank") or 0
        names = {} if source.get("bind") else {"pod": POD, "model": MODEL}
        config = {"endpoint": endpoint, "replay_endpoint": replay_endpoint, **names, **source}
        self.subscriber = Subscriber(self.atlas, [SourceConfig(**config)])

    def __enter__(self) -> Listener:
        self.subscriber.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.subscriber.stop()

    @property
    def held(self) -> dict[int, int]:
        """Tier bits by block key."""
        return self.atlas.residency(MODEL).get((POD, self._rank, 0), {})

    @property
    def worker(self) -> WorkerStatistics | None:
        """None as long as nothing has been heard."""
        return next(iter(self.atlas.statistics().workers), None)

    @property
    def has_heard(self) -> bool:
        """Whether a batch has come live, not by a replay."""
        return self.worker is not None and self.worker.age_s is not None

    @property
    def state(self) -> str:
        """Of the worker's truth; empty as long as nothing has been heard."""
        return self.worker.truth.state if self.worker is not None else ""

    @property
    def reasons(self) -> set[str]:
        """Names of the doubts that stand."""
        return {reason.name for reason in self.worker.truth.reasons} if self.worker is not None else set()

    def wait_until_exact(self, said: Said) -> None:
        """Returns when the atlas holds what the server has said, and says that it knows."""
        self.wait_until(lambda: self.is_exact(said))

    def is_exact(self, said: Said) -> bool:
        return self.state == "EXACT" and self.held == said.held()

    def wait_until(self, condition: Callable[[], bool]) -> None:
        assert self.subscriber.wait_until(lambda _: condition(), WAIT_S), (
            f"not so in {WAIT_S} s: {self.state} for {self.reasons}, {len(self.held)} blocks held"
        )

    def publish_until(self, condition: Callable[[], bool], publisher: Publisher) -> None:
        """Has the publisher say, until then, what changes nothing.

        A publisher drops what it says before a subscription has arrived, and does not tell when it has.
        """
        passing, said = prompt("passing", 1), Said()
        while not condition():
            publisher.publish([said.store(passing), said.remove(passing, 0)])
            self.subscriber.wait_until(lambda _: condition(), timeout_s=0.02)
