"""The Ray actor that holds one shard. Thin: what it does is in process.py and service.py."""

from __future__ import annotations

import logging
import os
from typing import Any, cast

import ray

from kvatlas.actors.orders import (
    NAMESPACE,
    ShardAsks,
    ShardOrders,
    ShardReport,
    decode,
    encode,
)
from kvatlas.actors.shard.process import ShardProcess
from kvatlas.actors.shard.settings import ShardSettings

_CALL_S_MAX = 5.0

_log = logging.getLogger(__name__)


class _ShardActor:
    """Holds one shard of one layout; enlists with the directory of its cluster, and reports to it."""

    def __init__(self, cluster: str, layout: int, shard: int, replica: int, settings: bytes) -> None:
        """`settings`: `ShardSettings`, encoded."""
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
        context = ray.get_runtime_context()
        asks = ShardAsks(
            layout=layout,
            shard=shard,
            replica=replica,
            actor=context.get_actor_name() or "",
            node_id=context.get_node_id(),
        )
        self._process = ShardProcess(
            cluster,
            asks,
            decode(settings, ShardSettings),
            _RayDirectory(cluster),
            host=ray.util.get_node_ip_address(),  # type: ignore[no-untyped-call]
            goes=lambda: ray.kill(context.current_actor, no_restart=True),
            breaks=lambda: os._exit(1),
        )

    @ray.method
    def handle(self, frame: bytes) -> bytes:
        """The answer to one frame (docs/shard_protocol.md); for `RayLink`."""
        return self._process.handle(frame)

    @ray.method
    def report(self) -> bytes:
        """`ShardReport`, encoded; empty: not enlisted yet."""
        report = self._process.report()
        return b"" if report is None else encode(report)

    @ray.method
    def report_now(self) -> None:
        """The directory has other orders for it."""
        self._process.report_now()

    @ray.method
    def process_id(self) -> int:
        """Of the operating system."""
        return os.getpid()


class _RayDirectory:
    """The directory by Ray calls. Used by one thread."""

    def __init__(self, cluster: str) -> None:
        self._name = f"{cluster}/directory"
        self._actor: Any = None

    def enlist(self, asks: ShardAsks) -> ShardOrders | None:
        return self._call("enlist_shard", encode(asks))

    def report(self, report: ShardReport) -> ShardOrders | None:
        return self._call("report_shard", encode(report))

    def is_gone(self) -> bool:
        try:
            ray.get_actor(self._name, namespace=NAMESPACE)
        except ValueError:
            return True
        except Exception:  # Ray itself does not answer: nothing is known
            return False
        return False

    def _call(self, method: str, told: bytes) -> ShardOrders | None:
        try:
            if self._actor is None:
                self._actor = ray.get_actor(self._name, namespace=NAMESPACE)
            asked = getattr(self._actor, method).remote(told)
            return decode(cast("bytes", ray.get(asked, timeout=_CALL_S_MAX)), ShardOrders)
        except Exception as error:  # of Ray, which has many kinds: the next call finds it anew
            if self._actor is not None:
                _log.warning(
                    "%s: no answer to %s: %s", self._name, method, str(error).strip().partition("\n")[0]
                )
            self._actor = None
            return None


ShardActor = ray.remote(_ShardActor)
