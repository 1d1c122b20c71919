"""A proxy that Ray places and starts again: a thin shell around one that listens."""

from __future__ import annotations

import os

import msgspec
import ray

from kvatlas.actors.reading.settings import ReaderSettings
from kvatlas.cluster.client import Client
from kvatlas.cluster.config.proxy_config import ProxyConfig
from kvatlas.cluster.proxy.running import RunningProxy

_READY_S_MAX = 60.0


class _ProxyActor:
    """Serves HTTP on a port of its node; no part of a stream goes through Ray.

    It keeps nothing: one that is started again reads the cluster anew, and what its predecessor had
    reserved is forgotten by the other routers within seconds. Raises ClusterError where the cluster cannot be
    read, ConfigError where the port is taken: then its node has one already.
    """

    def __init__(self, cluster: str, proxy: bytes, reading: bytes) -> None:
        """msgpack of ProxyConfig and of ReaderSettings."""
        config = msgspec.msgpack.decode(proxy, type=ProxyConfig)
        self._client = Client(cluster, msgspec.msgpack.decode(reading, type=ReaderSettings))
        self._client.wait_ready(_READY_S_MAX)
        _ = self._client.chooser  # connects: the event loop never has to
        self._proxy = RunningProxy(config, self._client, self._client)

    def url(self) -> str:
        """Where it listens: its node's address, unless one is configured."""
        address: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
        return self._proxy.url.replace("127.0.0.1", address)

    def statistics(self) -> bytes:
        """msgpack of ProxyStatistics."""
        return msgspec.msgpack.encode(self._proxy.statistics())

    def ping(self) -> int:
        """Its process id."""
        return os.getpid()

    def stop(self) -> None:
        """Takes no more, and returns when running answers have ended, or after ten seconds."""
        self._proxy.stop()
        self._client.close()


ProxyActor = ray.remote(_ProxyActor)
