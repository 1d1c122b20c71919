"""Opens the link to a replica: by its socket where it has one, else by Ray calls."""

from __future__ import annotations

import ray

from kvatlas.actors.link.client import SocketLinks
from kvatlas.actors.link.link import CountedLink, LinkSettings
from kvatlas.actors.link.ray_link import RayLink
from kvatlas.actors.orders import NAMESPACE, LinkKeys, Replica
from kvatlas.index.errors import ConfigError


class Links:
    """All links of a process. Any thread may call it."""

    def __init__(self, keys: LinkKeys | None, settings: LinkSettings | None = None) -> None:
        """`keys`: needed for replicas with sockets."""
        self._settings = settings or LinkSettings()
        self._sockets = None if keys is None else SocketLinks(keys, self._settings)

    def open(self, replica: Replica) -> CountedLink:
        """Raises ConfigError when its endpoint is none, or keys for it are missing."""
        if not replica.endpoint:
            return RayLink(
                replica.actor, lambda: ray.get_actor(replica.actor, namespace=NAMESPACE), self._settings
            )
        if self._sockets is None:
            raise ConfigError(f"links: expected keys, to ask {replica.endpoint}; got None")
        return self._sockets.open(replica.endpoint)

    def close(self) -> None:
        if self._sockets is not None:
            self._sockets.close()
