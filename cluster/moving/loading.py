"""A dump, loaded into a running cluster: kept and shown by an actor of its own."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any

import msgspec
import ray
from ray.exceptions import RayError, RayTaskError

from kvatlas.actors.directory.ray_yard import resource_options
from kvatlas.actors.moving.dump_actor import DumpActor, LoadedParts
from kvatlas.actors.orders import GUEST, NAMESPACE, ClusterView, ReaderSecrets, decode, encode
from kvatlas.actors.reading.connection import DirectoryCalls
from kvatlas.actors.reading.fleet_parts import algorithm_of
from kvatlas.cluster.config.cluster_config import ClusterConfig
from kvatlas.cluster.directory_settings import actor_resources, subscriber_settings
from kvatlas.index.dumps.dump_file import DumpReader
from kvatlas.index.dumps.meta import keyspaces_of, require_keyspaces
from kvatlas.index.errors import ClusterError, KvatlasError
from kvatlas.index.view import FleetPart
from kvatlas.ingest.shown_dump import LoadedReport

SESSION = f"{GUEST}dump"
"""Of what was loaded by hand; a cluster has one such."""

_CALL_S_MAX = 120.0
_GONE_S_MAX = 20.0
_LOOK_S = 0.05
_IN_FLIGHT_MAX = 4

Said = Callable[[str], object]


class LoadReport(msgspec.Struct, frozen=True, kw_only=True):
    """What was loaded."""

    shown: LoadedReport
    bytes: int
    """Of sections."""
    seconds: float


def load_into(
    calls: DirectoryCalls, reader: DumpReader, *, session: str = SESSION, said: Said = lambda _: None
) -> LoadReport:
    """Load a dump in the place of what this session has loaded before; returns when all shards have it.

    Raises DumpError for a dump that is torn, or of another seed, algorithm or block size, and
    ClusterError where the cluster does not answer; what was shown before stays.
    """
    began_s = time.monotonic()
    _check(calls, reader, session)
    actor = _actor(calls, session)
    number: int = _result(actor.begin.remote())
    try:
        n_bytes = _send(actor, number, reader, said)
        said("telling the shards")
        told = LoadedParts(parts=tuple(reader.meta.parts), created_s=reader.meta.created_s)
        shown = decode(_result(actor.commit.remote(number, encode(told))), LoadedReport)
    except BaseException:
        _abandon(calls, session, actor.abandon.remote(number))
        raise
    return LoadReport(shown=shown, bytes=n_bytes, seconds=time.monotonic() - began_s)


def _send(actor: Any, number: int, reader: DumpReader, said: Said) -> int:
    """All sections, some of them on their way at a time; their bytes."""
    n_bytes, waiting = 0, list[Any]()
    for section in reader:
        said(f"{n_bytes >> 20} MiB")
        waiting.append(actor.section.remote(number, bytes(section)))
        n_bytes += len(section)
        if len(waiting) > _IN_FLIGHT_MAX:
            _result(waiting.pop(0))
    for answer in waiting:
        _result(answer)
    return n_bytes


def _abandon(calls: DirectoryCalls, session: str, ends: Any) -> None:
    """Where nothing is shown its actor ends: whoever loads next would find one that is going."""
    with contextlib.suppress(KvatlasError):
        if _result(ends):
            _wait_gone(calls, session)


def drop_loaded(calls: DirectoryCalls, session: str = SESSION) -> None:
    """Give up what was loaded. Raises ClusterError where nothing is."""
    try:
        actor = ray.get_actor(f"{calls.cluster}/{session}", namespace=NAMESPACE)
    except ValueError as error:
        raise ClusterError(f"cluster {calls.cluster!r}: expected a loaded dump, there is none") from error
    with contextlib.suppress(RayError):  # it may be gone before it has answered
        ray.get(actor.drop.remote(), timeout=_CALL_S_MAX)
    _wait_gone(calls, session)


def _wait_gone(calls: DirectoryCalls, session: str) -> None:
    """Raises ClusterError when its actor does not end in time."""
    waiting, until_s = threading.Event(), time.monotonic() + _GONE_S_MAX
    while is_loaded(calls.cluster, session):  # or the next load would find one that ends
        if time.monotonic() > until_s:
            raise ClusterError(
                f"cluster {calls.cluster!r}: expected {session} to end within {_GONE_S_MAX:g} s"
            )
        waiting.wait(_LOOK_S)


def is_loaded(cluster: str, session: str = SESSION) -> bool:
    """Whether the actor that keeps what this session has loaded is there."""
    try:
        ray.get_actor(f"{cluster}/{session}", namespace=NAMESPACE)
    except ValueError:
        return False
    return True


def _check(calls: DirectoryCalls, reader: DumpReader, session: str) -> None:
    """Raises DumpError where the keys of the dump are not this cluster's."""
    secrets = calls.ask("secrets", ReaderSecrets)
    view = calls.ask("view", ClusterView, 0, 0.0)
    # A model that nobody here has heard of yet will have the block size that the dump says.
    theirs = {model: space.block_size_tokens for model, space in reader.meta.keyspaces.items()}
    parts = [FleetPart(block_sizes=theirs), *(one.part for one in view.parts if one.subscriber != session)]
    live = keyspaces_of(parts, algorithm_of(secrets), secrets.hash_seed)
    require_keyspaces(reader.meta, live)


def _actor(calls: DirectoryCalls, session: str) -> Any:
    """The one that keeps it; begun where there is none."""
    told: bytes = calls.call("config")
    config = msgspec.msgpack.decode(told, type=ClusterConfig)
    options = {
        "name": f"{calls.cluster}/{session}",
        "namespace": NAMESPACE,
        "lifetime": "detached",
        "max_restarts": 0,
        "get_if_exists": True,
        **resource_options(actor_resources(config.subscribers.resources)),
    }
    settings = encode(subscriber_settings(config))
    return DumpActor.options(**options).remote(calls.cluster, session, settings)


def _result(answer: Any) -> Any:
    try:
        return ray.get(answer, timeout=_CALL_S_MAX)
    except RayTaskError as error:
        cause = error.cause
        raise cause if isinstance(cause, KvatlasError) else ClusterError(f"load: {cause}") from None
    except (RayError, TimeoutError) as error:
        said = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ClusterError(
            f"load: expected an answer of the actor that keeps it, got none: {said}"
        ) from error
