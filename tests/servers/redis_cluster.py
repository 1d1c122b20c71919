"""Three real servers that are one cluster, each with a third of the slots."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from tests.ports import free_ports
from tests.servers.programs import Kind
from tests.servers.redis_server import RedisServer, wait_until

N_SLOTS = 16384


class RedisCluster:
    """Masters without replicas. No persistence: a node that is started again has forgotten the cluster."""

    def __init__(
        self, folder: Path, *, kind: Kind = "redis", n_nodes: int = 3, password: str | None = None
    ) -> None:
        self.nodes: list[RedisServer] = []
        self._replicas: list[RedisServer] = []
        self._folder = folder
        for number in range(n_nodes):
            place = folder / f"node-{number}"
            place.mkdir()
            node = RedisServer(place, kind=kind, password=password, options=_options(password))
            self.nodes.append(node)
        self.kind: Kind = kind
        self._password = password

    def start(self) -> RedisCluster:
        try:
            for node in self.nodes:
                node.start()
            self._join()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        for node in (*self.nodes, *self._replicas):
            node.stop()

    def flush(self) -> None:
        for node in self.nodes:
            node.flush()

    def goes_on(self) -> bool:
        """Wakes nodes that were paused; whether all run and know of all, and of one that serves each slot."""
        if not all(node.is_running for node in self.nodes):
            return False
        for node in self.nodes:
            node.resume()
        return all(_is_ok(node, len(self.nodes)) for node in self.nodes)

    @property
    def url(self) -> str:
        """Of the first node, in cluster mode."""
        return f"{self.nodes[0].url}?cluster=true"

    def node_of(self, key: bytes) -> RedisServer:
        """The one that serves a key now, by its own word."""
        from redis.crc import key_slot

        slot = key_slot(key)
        for low, high, master, *_ in self.nodes[0].command("CLUSTER", "SLOTS"):
            if low <= slot <= high:
                return next(node for node in self.nodes if node.port == master[1])
        raise AssertionError(f"nobody serves slot {slot}")

    def add_replica(self, master: RedisServer) -> RedisServer:
        """Another node, which follows a master. It stops with the cluster; it is none of `nodes`."""
        place = self._folder / f"replica-{len(self._replicas)}"
        place.mkdir()
        replica = RedisServer(
            place, kind=self.kind, password=self._password, options=_options(self._password)
        ).start()
        self._replicas.append(replica)
        replica.command("CLUSTER", "MEET", "127.0.0.1", master.port, _bus_port(master))
        wait_until(
            lambda: _is_ok(replica, len(self.nodes) + len(self._replicas)), what="the replica's cluster"
        )
        replica.command("CLUSTER", "REPLICATE", _id(master))
        wait_until(
            lambda: b"master_link_status:up" in _told(replica, "INFO replication"), what="the replica's link"
        )
        return replica

    def begin_move(self, slot: int, source: RedisServer, target: RedisServer) -> None:
        """From here on the source answers ASK for keys that it does not hold."""
        target.command("CLUSTER", "SETSLOT", slot, "IMPORTING", _id(source))
        source.command("CLUSTER", "SETSLOT", slot, "MIGRATING", _id(target))

    def move_keys(self, slot: int, source: RedisServer, target: RedisServer, count: int = 1 << 20) -> int:
        """Moves some of the slot's keys, and says how many."""
        keys = source.command("CLUSTER", "GETKEYSINSLOT", slot, count)
        if keys:
            words: list[Any] = ["MIGRATE", "127.0.0.1", target.port, "", 0, 5000]
            words += ["AUTH", self._password] if self._password else []
            source.command(*words, "KEYS", *keys)
        return len(keys)

    def end_move(self, slot: int, target: RedisServer) -> None:
        """From here on the source answers MOVED."""
        for node in (target, *(node for node in self.nodes if node is not target)):
            node.command("CLUSTER", "SETSLOT", slot, "NODE", _id(target))

    def _join(self) -> None:
        share = -(-N_SLOTS // len(self.nodes))
        for number, node in enumerate(self.nodes):
            first = number * share
            node.command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            node.command("CLUSTER", "ADDSLOTSRANGE", first, min(first + share, N_SLOTS) - 1)
            if number:
                node.command("CLUSTER", "MEET", "127.0.0.1", self.nodes[0].port, _bus_port(self.nodes[0]))
        for node in self.nodes:
            wait_until(partial(_is_ok, node, len(self.nodes)), what="cluster_state:ok")


def _options(password: str | None) -> dict[str, str | int]:
    # The bus would be at the port and 10 000 more, which another may hold.
    options: dict[str, str | int] = {
        "cluster-enabled": "yes",
        "cluster-port": free_ports(1)[0],
        "cluster-config-file": "nodes.conf",
        "cluster-node-timeout": 20_000,  # a node that a busy machine starves is not down
        "cluster-require-full-coverage": "yes",
    }
    if password is not None:
        options["masterauth"] = password
    return options


def _bus_port(node: RedisServer) -> int:
    return int(node.options["cluster-port"])


def _id(node: RedisServer) -> bytes:
    found = node.command("CLUSTER", "MYID")
    assert isinstance(found, bytes)
    return found


def _told(node: RedisServer, command: str) -> bytes:
    """What an INFO says, as it is on the wire: redis-py would parse it."""
    with node.client() as client:
        client.response_callbacks.clear()
        told = client.execute_command(*command.split())
    assert isinstance(told, bytes)
    return told


def _is_ok(node: RedisServer, n_nodes: int) -> bool:
    told = _told(node, "CLUSTER INFO")
    return b"cluster_state:ok" in told and b"cluster_known_nodes:%d\r" % n_nodes in told
