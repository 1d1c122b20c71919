"""What a reader of a server's index knows at one moment, and how it stands."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from kvatlas.index.fleet_view import FleetView
from kvatlas.index.keys import Algorithm
from kvatlas.index.reading import PromptReader
from kvatlas.index.remote.fleet.common_keys import fingerprint
from kvatlas.index.remote.fleet.matching import Fetching, RemoteMatcher
from kvatlas.index.remote.fleet.upkeep import ServerBlocks

_DISTRUSTED = "the index server is not reached (until it is)"
_CHANGES = itertools.count(1)


class Keyed(NamedTuple):
    """How prompts are keyed, and what blocks are worth."""

    algorithm: Algorithm
    hash_seed: str
    tier_weights: Mapping[str, float]

    @property
    def fingerprint(self) -> str:
        """As the server has it."""
        return fingerprint(self.algorithm, self.hash_seed)


class Now(NamedTuple):
    """What is read at one moment."""

    fleet: FleetView
    reader: PromptReader[FleetView]
    distrusted: PromptReader[FleetView]
    """The same, where nothing is vouched for: while the server is not reached."""
    matcher: RemoteMatcher
    change: int
    """No other one of this process has it."""

    @classmethod
    def of(cls, fleet: FleetView, fetching: Fetching, keyed: Keyed, *, is_whole: bool) -> Now:
        """`is_whole`: every writer has told all that it holds."""
        matcher = RemoteMatcher(fetching, fleet.roster, is_whole=is_whole)
        reader, distrusted = (
            PromptReader(told, matcher, algorithm=keyed.algorithm, tier_weights=keyed.tier_weights)
            for told in (fleet, fleet.degraded(_DISTRUSTED))
        )
        return cls(fleet, reader, distrusted, matcher, next(_CHANGES))


class RemoteReaderStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How an index in a server is read."""

    is_reached: bool
    """By the last question of any kind."""
    is_trusted: bool
    """What is known of the workers is fresh enough."""
    says: str
    """Why not."""
    age_s: float
    """Since the server last said who there is."""
    sessions: dict[int, str]
    """Writers, by session: what their parts say of themselves; empty where all is well."""
    n_workers: int
    is_whole: bool
    """Every writer has told all that it holds."""
    counts: dict[str, int]
    """refreshes, missed_refreshes, failed_fetches, unreadable_parts, other_keys, missed_upkeep."""
    server: ServerBlocks | None = None
    """What the index holds, and what it has dropped; None: not known yet, or another format."""
