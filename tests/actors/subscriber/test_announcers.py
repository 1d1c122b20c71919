"""A subscriber of a cluster follows a store's announcer beside its servers: files lie in the shards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from kvatlas.actors.orders import PodOrders
from kvatlas.ingest.config import PodConfig
from kvatlas.ingest.discovery.pods import DiscoveredPod, encode_pod
from kvatlas.ingest.sockets.source_config import SourceConfig
from kvatlas.offload.events.store_events import StoreEvents
from tests.actors.link.link_peers import wait_until
from tests.actors.subscriber.shards_by_mail import held
from tests.actors.subscriber.test_service import MODEL, Rig, is_ready, states

LOOPBACK = "tcp://127.0.0.1:*"
ANNOUNCER = "store:nfs#evictor"


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path)
    with rig.closing:
        yield rig


def attach(rig: Rig, pod: str) -> None:
    """The pod's settings name the store."""
    order = rig.pods[pod]
    found = msgspec.msgpack.decode(order.source)
    found["settings"]["stores"] = ["nfs"]
    rig.pods[pod] = PodOrders(pod=pod, source=msgspec.msgpack.encode(found))


def follow(rig: Rig, events: StoreEvents) -> None:
    source = SourceConfig(endpoint=events.endpoint, replay_endpoint=events.replay_endpoint, pod=ANNOUNCER)
    found = DiscoveredPod(pod=ANNOUNCER, sources=(source,), settings=PodConfig(model=MODEL))
    rig.pods[ANNOUNCER] = PodOrders(pod=ANNOUNCER, source=encode_pod(found))


def stored_blocks(rig: Rig) -> int:
    """In the shards, in the store's lane."""
    assert rig.service is not None
    names = rig.service.mirror.fleet.lane_names
    lanes = [lane for lane, name in names.items() if name == "nfs"]
    keys = [key for blocks in rig.service.mirror.residency(MODEL).values() for key in blocks]
    found = [held(shard.service.table, keys) for shard in rig.shards.shards]
    return sum(lane in lanes for one in found for lane, _ in one)


def keys_held(rig: Rig, pod: str, n: int) -> list[bytes]:
    hashes = sorted(rig.servers[pod].held())[:n]
    return [b"\0" * 24 + name.to_bytes(8, "big") + bytes(4) for name in hashes]


def test_files_lie_in_the_shards_and_go_with_their_removal(rig: Rig) -> None:
    rig.add_server("a")
    attach(rig, "a")
    with StoreEvents(
        LOOPBACK, LOOPBACK, store="nfs", model=MODEL, announcer="evictor", gather_s=0.001
    ) as events:
        follow(rig, events)
        service = rig.start()
        rig.serve("a", 20)
        names = keys_held(rig, "a", 10)
        events.inventory([names])
        wait_until(lambda: stored_blocks(rig) == 10)
        wait_until(lambda: is_ready(service.report()))
        assert states(service.mirror.part()).keys() == {"a"}, "readers hear of no such worker"
        events.removed(names[:4])
        wait_until(lambda: stored_blocks(rig) == 6)
        rig.shards.restart(1)
        service.follow(rig.shards.view(rig.session))
        wait_until(lambda: stored_blocks(rig) == 6)
