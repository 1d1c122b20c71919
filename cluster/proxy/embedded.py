"""All that a proxy needs in one process, without Ray's help: the pods are looked for and followed here."""

from __future__ import annotations

import threading
import time

from kvatlas.cluster.config.cluster_config import ClusterConfig
from kvatlas.cluster.proxy.running import RunningProxy
from kvatlas.cluster.serve.fleets import EmbeddedFleet
from kvatlas.index.errors import ClusterError
from kvatlas.ingest.discovery.discovery import Discovery

_LOOK_S = 1.0
"""After so long it notices that it is to end."""


class EmbeddedProxy:
    """A proxy over an atlas of its own. A context manager.

    Of a cluster's configuration it takes `proxy`, `choosing`, `discovery`, `atlas`, `tokenize` and
    `subscribers.sockets`. Raises ConfigError where it cannot listen, or a watch cannot work.
    """

    def __init__(self, config: ClusterConfig, *, port: int | None = None) -> None:
        """`port`: instead of the configured one; 0: any that is free."""
        self._discovery = Discovery(config.discovery)
        self.fleet = EmbeddedFleet(config.choosing, config.atlas, config.tokenize, config.subscribers.sockets)
        self._ends = False
        self._telling = threading.Thread(target=self._tell, name="kvatlas-proxy-pods", daemon=True)
        try:
            self._discovery.start()
            self._telling.start()
            self.proxy = RunningProxy(config.proxy, self.fleet.chooser, self.fleet.atlas, port=port)
        except BaseException:
            self._close_fleet()
            raise

    @property
    def url(self) -> str:
        return self.proxy.url

    def wait_ready(self, timeout_s: float) -> None:
        """Wait until there is a pod that requests can be sent to. Raises ClusterError when there is none."""
        until_s = time.monotonic() + timeout_s
        while not any(one.serving.url for one in self.fleet.atlas.serving_pods().values()):
            if time.monotonic() > until_s:
                raise ClusterError(f"proxy: expected a pod with a url within {timeout_s:g} s, found none")
            self._discovery.wait(self._discovery.version, _LOOK_S / 20)

    def close(self) -> None:
        """Twice is fine."""
        self.proxy.stop()
        self._close_fleet()

    def __enter__(self) -> EmbeddedProxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _close_fleet(self) -> None:
        self._ends = True
        self._discovery.stop()
        if self._telling.ident is not None:
            self._telling.join()
        self.fleet.close()

    def _tell(self) -> None:
        """What discovery finds is followed."""
        version = -1
        while not self._ends:
            now = self._discovery.wait(version, _LOOK_S)
            if now != version:
                version = now
                self.fleet.follow(self._discovery.pods(), self)
