"""A pod as people write it: in a configuration, in a watched file, in a registration."""

from __future__ import annotations

import re

import msgspec

from kvatlas.index.choosing.serving import Serving
from kvatlas.index.errors import ConfigError
from kvatlas.ingest.config import PodConfig
from kvatlas.ingest.discovery.pods import SOURCES_MAX, DiscoveredPod, check_pod
from kvatlas.ingest.sockets.source_config import SourceConfig

_PORT = re.compile(r"(tcp://.+:)(\d{1,5})")


class PodEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One pod and one of `endpoint`, `sources` and `url`; or none of them, with a model and `serving.url`.

    Raises ConfigError, or InputError, for values that do not fit, with their names.
    """

    pod: str
    """Its id, 1 to 253 printable characters."""
    endpoint: str | None = None
    """Of rank 0, where its server listens: tcp://HOST:PORT, tcp://[IPV6]:PORT or ipc://PATH."""
    replay_endpoint: str | None = None
    """Of the replay socket of rank 0, beside `endpoint`."""
    ranks: int = 1
    """Data-parallel ranks, 1 to 256; rank r has both ports raised by r."""
    sources: tuple[SourceConfig, ...] = ()
    """In full, where `endpoint` is not enough: CURVE keys, sockets that listen for servers that dial."""
    url: str | None = None
    """http://HOST:PORT of a server that tells its sources itself, vLLM 0.32 and later."""
    model: str | None = None
    """Short for `settings.model`."""
    block_size_tokens: int | None = None
    """Tokens in a block of the index for its model, 1 to 4096. None: as configured for the model, or
    as its events say."""
    settings: PodConfig = PodConfig()
    """Stores, cache size and the like."""
    node: str | None = None
    """Where it runs: IP address or Ray node id."""
    labels: dict[str, str] = {}
    """Filters of choices look at them."""
    serving: Serving = Serving()
    """How requests reach it, and what it can take. `serving.url` is `url` where only that is given."""

    def __post_init__(self) -> None:
        given = [name for name in ("endpoint", "sources", "url") if getattr(self, name)]
        if len(given) > 1 or (not given and self.serving.url is None):
            raise ConfigError(
                f"{self.pod[:80]!r}: expected one of endpoint, sources and url, got {given or 'none'}"
            )
        if self.endpoint is None and (self.replay_endpoint is not None or self.ranks != 1):
            raise ConfigError(f"{self.pod[:80]!r}: expected replay_endpoint and ranks only beside endpoint")
        if isinstance(self.ranks, bool) or not 1 <= self.ranks <= SOURCES_MAX:
            raise ConfigError(f"ranks: expected 1 to {SOURCES_MAX}, got {self.ranks!r}")
        check_pod(self.discovered(""))

    def discovered(self, found_by: str) -> DiscoveredPod:
        """As `found_by`, the name of a watch, tells of it."""
        settings = self.settings
        if self.model is not None:
            settings = msgspec.structs.replace(settings, model=self.model)
        serving = self.serving
        if serving.url is None and self.url is not None:
            serving = msgspec.structs.replace(serving, url=self.url)
        sources = self._sources(settings.model)
        ranks = max(((source.rank or 0) + 1 for source in sources), default=1)
        if serving.ranks == 1 < ranks <= SOURCES_MAX:
            serving = msgspec.structs.replace(serving, ranks=ranks)
        return DiscoveredPod(
            pod=self.pod,
            sources=sources,
            url=self.url,
            block_size_tokens=self.block_size_tokens,
            settings=settings,
            node=self.node,
            labels=self.labels,
            serving=serving,
            found_by=found_by,
        )

    def _sources(self, model: str | None) -> tuple[SourceConfig, ...]:
        if self.endpoint is None:
            return self.sources
        return rank_sources(self.pod, self.endpoint, self.replay_endpoint, self.ranks, model)


def rank_sources(
    pod: str, endpoint: str, replay_endpoint: str | None, ranks: int, model: str | None
) -> tuple[SourceConfig, ...]:
    """One source a data-parallel rank; rank r has r added to the ports of both endpoints.

    Whatever its topic says, such a source speaks for this pod and no other.

    Raises ConfigError when there is no port to raise.
    """
    return tuple(
        SourceConfig(
            endpoint=raised(endpoint, rank),
            replay_endpoint=None if replay_endpoint is None else raised(replay_endpoint, rank),
            pod=pod,
            overrides_topic=True,
            model=model,
            rank=None if ranks == 1 else rank,
        )
        for rank in range(ranks)
    )


def raised(endpoint: str, rank: int) -> str:
    """The endpoint of a rank. Raises ConfigError where rank is not 0 and there is no port to raise."""
    if rank == 0:
        return endpoint
    found = _PORT.fullmatch(endpoint)
    if found is None:
        raise ConfigError(f"endpoint: expected a port to add rank {rank} to, got {endpoint[:80]!r}")
    return f"{found[1]}{int(found[2]) + rank}"
