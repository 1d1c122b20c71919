"""The atlas that the demo routes by: on Ray, or in this process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from kvatlas.cluster.demo.fleet import Fleet, FleetError
from kvatlas.cluster.demo.traffic import TokenIds
from kvatlas.cluster.following.arrivals import Arrivals
from kvatlas.cluster.following.atlas_counts import events_ingested
from kvatlas.index.scores import Scores
from kvatlas.ingest.atlas import Atlas
from kvatlas.ingest.sockets.subscriber import Subscriber

SETTLE_S_MAX = 20.0


class DemoAtlas(Protocol):
    """What the demo needs of an atlas that follows its fleet."""

    def score(self, token_ids: TokenIds, *, model: str) -> Scores: ...

    def settle(self, published: Mapping[str, int]) -> None:
        """Returns when so many batches of each pod (by its id) have been taken.

        Raises FleetError when they have not after twenty seconds: something was lost on the way.
        """
        ...

    def events(self) -> int:
        """Taken since the beginning; on Ray as last reported, a second old at most."""
        ...

    def facts(self) -> list[tuple[str, str]]:
        """What there is to tell of it, as (name, value)."""
        ...


class EmbeddedAtlas:
    """An `Atlas` and a `Subscriber` in this process; a context manager."""

    def __init__(self, fleet: Fleet) -> None:
        self.atlas = Atlas()
        self._model = fleet.config.model
        self._arrivals = Arrivals(self.atlas)
        self._subscriber = Subscriber(self._arrivals, fleet.endpoints)

    def __enter__(self) -> EmbeddedAtlas:
        self._subscriber.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._subscriber.stop()

    def score(self, token_ids: TokenIds, *, model: str) -> Scores:
        return self.atlas.score(token_ids, model=model)

    def settle(self, published: Mapping[str, int]) -> None:
        by_topic = {f"kv@{pod}@{self._model}".encode(): count for pod, count in published.items()}
        if not self._subscriber.wait_until(lambda _: self._arrivals.have(by_topic), SETTLE_S_MAX):
            raise FleetError(
                f"events: expected {sum(published.values())} batches, "
                f"got {self._subscriber.statistics().batches} within {SETTLE_S_MAX:.0f} s"
            )

    def events(self) -> int:
        return events_ingested(self.atlas.statistics())

    def facts(self) -> list[tuple[str, str]]:
        return [("atlas", "in this process")]
