"""A cluster that shows the newest dump of a folder, as far as its subscribers have heard nothing yet."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from pathlib import Path
from typing import Any

import msgspec
import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from kvatlas.actors.orders import GUEST, NAMESPACE, encode
from kvatlas.actors.reading.connection import DirectoryCalls
from kvatlas.cluster.moving.loading import drop_loaded, is_loaded, load_into
from kvatlas.cluster.standby.dump_folder import DumpFolder
from kvatlas.index.dumps.dump_file import DumpReader
from kvatlas.index.errors import ClusterError, KvatlasError

SESSION = f"{GUEST}followed"
"""Of what is shown; not that of a dump that was loaded by hand."""
FOLLOWER = f"{GUEST}follower"
LOOK_S = 2.0
"""Between two looks at the folder."""
_CALL_S_MAX = 60.0

_log = logging.getLogger(__name__)


class FollowerReport(msgspec.Struct, frozen=True, kw_only=True):
    """How following goes."""

    folder: str
    created_s: float
    """When the dump that is shown was made, seconds since 1970; 0: none is."""
    says: str
    """What became of the last attempt."""
    counts: dict[str, int]


class _FollowerActor:
    """Looks at the folder of its node in a thread of its own. Ray starts it again; then it loads anew."""

    def __init__(self, cluster: str, folder: str) -> None:
        self._calls = DirectoryCalls(cluster)
        self._folder = folder
        self._dumps = DumpFolder(folder, self._load)
        self._over = threading.Event()
        threading.Thread(target=self._run, name="kvatlas-follower", daemon=True).start()

    @ray.method
    def ping(self) -> int:
        """Its process id."""
        return os.getpid()

    @ray.method
    def report(self) -> bytes:
        """FollowerReport."""
        dumps = self._dumps
        return encode(
            FollowerReport(
                folder=self._folder,
                created_s=dumps.loaded_s,
                says=dumps.says,
                counts=dict(dumps.counts),
            )
        )

    def _load(self, reader: DumpReader) -> None:
        load_into(self._calls, reader, session=SESSION)

    def _run(self) -> None:
        while not self._over.is_set():
            try:
                if not is_loaded(self._calls.cluster, SESSION):
                    self._dumps.forget()
                self._dumps.step()
            except KvatlasError as error:
                _log.warning("dumps of %s are not followed just now: %s", self._folder, error)
            except Exception:  # of Ray, which has many kinds
                _log.exception("dumps of %s are not followed just now", self._folder)
            self._over.wait(LOOK_S)


FollowerActor = ray.remote(_FollowerActor)


def follow_dumps(cluster: str, folder: str | Path) -> None:
    """Have a running cluster show the newest dump of a folder from now on, also after this process.

    The folder is read on the node of this process. What was followed before is not any more. Raises
    ClusterError where the actor that looks at it does not start.
    """
    stop_following(cluster)
    node = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    options: dict[str, Any] = {
        "name": f"{cluster}/{FOLLOWER}",
        "namespace": NAMESPACE,
        "lifetime": "detached",
        "max_restarts": -1,
        "num_cpus": 0,
        "scheduling_strategy": node,
    }
    actor = FollowerActor.options(**options).remote(cluster, str(Path(folder).absolute()))
    _result(cluster, actor.ping.remote())


def following(cluster: str) -> FollowerReport:
    """How following goes. Raises ClusterError where no folder is followed, or nobody answers."""
    told: bytes = _result(cluster, _actor(cluster).report.remote())
    return msgspec.msgpack.decode(told, type=FollowerReport)


def stop_following(cluster: str) -> None:
    """Follow no more, and show nothing of what was. Fine where nothing is followed.

    Raises ClusterError where what is shown does not go.
    """
    with contextlib.suppress(ClusterError):  # nobody follows
        ray.kill(_actor(cluster), no_restart=True)
    if is_loaded(cluster, SESSION):
        drop_loaded(DirectoryCalls(cluster), SESSION)


def _result(cluster: str, answer: Any) -> Any:
    try:
        return ray.get(answer, timeout=_CALL_S_MAX)
    except (RayError, TimeoutError) as error:
        raise ClusterError(
            f"cluster {cluster!r}: expected an answer of the actor that follows dumps, got none: {error}"
        ) from error


def _actor(cluster: str) -> Any:
    try:
        return ray.get_actor(f"{cluster}/{FOLLOWER}", namespace=NAMESPACE)
    except ValueError as error:
        raise ClusterError(f"cluster {cluster!r}: expected a folder to be followed, none is") from error
