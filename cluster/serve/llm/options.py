"""What `request_router_kwargs` may say to a KvatlasRouter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from kvatlas.index.choosing.settings import ChoosingConfig
from kvatlas.index.errors import ConfigError
from kvatlas.ingest.config import AtlasConfig


class RouterOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of one application. Everything has a default; from JSON, since Ray sends it so."""

    cluster: str = ""
    """Name of the kvatlas cluster that follows the replicas: one index a node, loads shared by all
    routers, choices as its configuration says. Empty: an index in each LLMRouter's process."""
    model: str = ""
    """Under which name the replicas are followed. Empty: the deployment's."""
    choosing: ChoosingConfig = ChoosingConfig()
    """Without a cluster: how replicas are chosen."""
    atlas: AtlasConfig = AtlasConfig()
    """Without a cluster: the index in the process."""
    arrival_s_max: float = 10.0
    """A request that its engine has not seen by then was lost on the way, and is no load any more. Should
    it come after all, it is one again."""

    def __post_init__(self) -> None:
        if not 0.1 <= self.arrival_s_max <= 3600:
            raise ConfigError(f"arrival_s_max: expected 0.1 to 3600, got {self.arrival_s_max!r}")


def read_options(kwargs: Mapping[str, Any]) -> RouterOptions:
    """Raises ConfigError, with the path, for what cannot be read."""
    try:
        return msgspec.convert(dict(kwargs), RouterOptions)
    except msgspec.ValidationError as error:
        raise ConfigError(f"request_router_kwargs: {error}") from error
