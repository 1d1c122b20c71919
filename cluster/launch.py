"""Starting, finding, scaling and ending a cluster."""

from __future__ import annotations

import contextlib
import logging
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import ray
from ray.exceptions import RayError

from kvatlas.actors.directory.ray_yard import RayKeeper, actors_of, resource_options
from kvatlas.actors.directory.settings import DirectorySettings
from kvatlas.actors.orders import NAMESPACE, encode
from kvatlas.actors.reading.connection import DirectoryCalls
from kvatlas.actors.reading.settings import ReaderSettings
from kvatlas.actors.shard.table_files import remove_left
from kvatlas.cluster.client import Client
from kvatlas.cluster.config.cluster_config import ClusterConfig
from kvatlas.cluster.config.writing import difference
from kvatlas.cluster.directory_settings import actor_resources, directory_settings, reader_settings
from kvatlas.cluster.proxy import placing
from kvatlas.cluster.standby.standby_client import StandbyClient
from kvatlas.index.errors import ClusterError, ConfigError, InputError

READY_S_MAX = 120.0
_CONNECT_S_MAX = 15.0
_GONE_S_MAX = 30.0
_END_S_MAX = 3.0
"""What has not ended by then is killed; its tables are removed by whoever starts there next."""
_LOOK_EVERY_S = 0.05
_CALLS_AT_ONCE = 4096
"""Each reader waits for the next view in one of them."""

_log = logging.getLogger(__name__)
_owned: dict[str, Any] = {}
"""Directories that end with this process: Ray ends an owned actor when its handle is dropped."""


def start(
    config: ClusterConfig | None = None, *, address: str | None = None, ready_s_max: float = READY_S_MAX
) -> Client:
    """Start a cluster on Ray, or find the one of this name that runs; returns when all its shards are up.

    `address`: of Ray, as `ray.init` wants it; None: the one this process is connected to, else one that
    runs on this machine, else a new one in this process's care. Takes seconds. Raises ConfigError, with
    what differs, where a cluster of this name runs with another configuration, and ClusterError when
    it is not up in `ready_s_max`; what was begun stays then, see `down`.
    """
    config = config or ClusterConfig()
    _connect_ray(address)
    calls = DirectoryCalls(config.name)
    if calls.is_gone():
        _begin(config)
    else:
        _log.info("cluster %r runs already: connected to it", config.name)
    _compare(config, calls, ready_s_max)
    _wait(lambda: _is_ready(calls), ready_s_max, f"cluster {config.name!r}: expected all shards up")
    client = Client(config.name, reader_settings(config))
    client.wait_ready(ready_s_max)
    if config.proxy.count:
        placing.begin(config)
    if config.gateway.replicas:
        from kvatlas.cluster.gateway import deploying  # Serve takes a second to import

        deploying.deploy(config)
    return client


def connect(name: str = "default", *, standby: str | None = None, address: str | None = None) -> Client:
    """A client of a cluster that runs. Raises ClusterError where there is none of this name.

    `standby`: another cluster that follows the same servers, with the same `atlas.hash_seed`; it is asked
    while the first cannot be, or lacks something. One of the two must run.
    """
    _connect_ray(address, must_run=True)
    if standby is not None:
        if standby == name:
            raise InputError(f"standby: expected another cluster than {name!r}, got the same")
        client: Client = StandbyClient(*(Client(one, _reading_of(one)) for one in (name, standby)))
    else:
        client = Client(name, reader_settings(_config(DirectoryCalls(name).call("config"))))
    client.wait_ready(_CONNECT_S_MAX)
    return client


def _reading_of(name: str) -> ReaderSettings | None:
    """As the cluster is configured; None: it cannot be asked."""
    try:
        return reader_settings(_config(DirectoryCalls(name).call("config")))
    except ClusterError:
        return None


def scale(
    name: str = "default",
    *,
    shards: int | None = None,
    replicas_per_node: int | None = None,
    off_nodes: Sequence[str] | None = None,
    address: str | None = None,
) -> None:
    """Want other numbers of shards and replicas, or no shards on some nodes; None: as it is wanted now.

    Returns at once: a new layout is built beside the one that serves (see `Client.status`).
    Raises InputError for numbers out of range.
    """
    _connect_ray(address, must_run=True)
    leave = None if off_nodes is None else tuple(off_nodes)
    DirectoryCalls(name).call("scale", shards, replicas_per_node, leave)


def down(name: str = "default", *, address: str | None = None) -> None:
    """End a cluster, with all its actors and all that Ray has kept of it; gone when this returns.

    A name that nobody has is fine, and is cleared of what was left behind.
    """
    _connect_ray(address, must_run=True)
    calls = DirectoryCalls(name)
    _remove_gateway(name)
    placing.end(name)
    folder = ""
    if not calls.is_gone():
        with contextlib.suppress(ClusterError):
            folder = _config(calls.call("config")).shards.shared_memory_folder
        # One that does not answer is ended all the same.
        with contextlib.suppress(ClusterError):
            calls.call("prepare_down")
            _have_them_report(name)
            _wait(lambda: not _reporting(name), _END_S_MAX, "expected all to end")
        with contextlib.suppress(ClusterError):
            ray.kill(calls.handle(), no_restart=True)
    _owned.pop(name, None)
    end_actors(name)
    remove_left(folder, name)  # of this node; elsewhere whoever starts there next does
    RayKeeper(name).clear()


def _remove_gateway(name: str) -> None:
    """Serve takes a second to import: only where it runs."""
    with contextlib.suppress(ValueError):
        ray.get_actor("SERVE_CONTROLLER_ACTOR", namespace="serve")
        from kvatlas.cluster.gateway import deploying

        deploying.remove(name)


def _reporting(name: str) -> list[str]:
    """Those that learn by their reports that they should end, and take their tables with them."""
    return [actor for actor in actors_of(name) if "/shard/" in actor or "/subscriber/" in actor]


def _have_them_report(name: str) -> None:
    """Now, not when it is time; who cannot be asked learns it then, or is killed."""
    for actor in _reporting(name):
        with contextlib.suppress(ValueError, RayError, AttributeError):  # gone, or of an earlier release
            ray.get_actor(actor, namespace=NAMESPACE).report_now.remote()


def end_actors(name: str) -> None:
    """End all actors of a cluster but its directory, and wait until their names are free."""
    for actor in actors_of(name):
        if actor != f"{name}/directory":
            with contextlib.suppress(ValueError, RayError):
                ray.kill(ray.get_actor(actor, namespace=NAMESPACE), no_restart=True)
    _wait(lambda: not actors_of(name), _GONE_S_MAX, f"cluster {name!r}: expected all actors gone")


def _begin(config: ClusterConfig) -> None:
    """Make the directory, which makes the others."""
    from kvatlas.actors.directory.actor import DirectoryActor  # who only connects needs it not

    # What another cluster of this name left behind would not know the new keys.
    end_actors(config.name)
    settings: DirectorySettings = directory_settings(config, secrets.token_hex(8))
    directory = DirectoryActor.options(
        name=f"{config.name}/directory",
        namespace=NAMESPACE,
        lifetime="detached" if config.lifetime == "detached" else None,
        max_restarts=-1,
        max_concurrency=_CALLS_AT_ONCE,
        get_if_exists=True,  # somebody may have started the same one just now
        **resource_options(actor_resources(config.directory.resources)),
    ).remote(encode(settings))
    if config.lifetime == "owned":
        _owned[config.name] = directory


def _compare(config: ClusterConfig, calls: DirectoryCalls, ready_s_max: float) -> None:
    # The first call to a new directory waits for its process, on a busy machine for long.
    running = _config(calls.result(calls.begin("config"), ready_s_max))
    # The gateway is no part of what runs: it is brought up, or changed, beside it.
    found = difference(msgspec.structs.replace(config, gateway=running.gateway), running)
    if found:
        raise ConfigError(
            f"cluster {config.name!r} runs with another configuration: expected the same, got "
            f"{'; '.join(found)} (`down` ends it, `scale` changes shards)"
        )


def _config(told: bytes) -> ClusterConfig:
    try:
        return msgspec.msgpack.decode(told, type=ClusterConfig)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ClusterError(f"directory: expected a cluster of this release, {error}") from error


def _connect_ray(address: str | None, *, must_run: bool = False) -> None:
    """Raises ConnectionError where no Ray runs and one must."""
    if ray.is_initialized():
        return
    if must_run and address is None:
        address = "auto"
    # Without the noise: who wants Ray's own messages has connected already.
    ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)


def _is_ready(calls: DirectoryCalls) -> bool:
    try:
        return bool(calls.call("ready"))
    except ClusterError:
        return False  # it is being restarted


def _wait(condition: Callable[[], bool], timeout_s: float, expected: str) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline_s:
            raise ClusterError(f"{expected} within {timeout_s:.0f} s, got less")
        time.sleep(_LOOK_EVERY_S)
