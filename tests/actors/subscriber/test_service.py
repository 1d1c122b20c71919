"""Servers on sockets, a whole subscriber, shards on sockets: what servers hold lies in the shards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import msgspec
import pytest

from kvatlas.actors.link.links import Links
from kvatlas.actors.orders import Lease, PodOrders, SubscriberOrders, SubscriberReport
from kvatlas.actors.subscriber.service import SubscriberService
from kvatlas.actors.subscriber.settings import OutboxSettings, SubscriberSettings
from kvatlas.index.view import FleetPart
from kvatlas.ingest.config import AtlasConfig, ModelConfig, PodConfig
from kvatlas.ingest.discovery.pods import DiscoveredPod, encode_pod
from kvatlas.ingest.simulator.server import SimulatedServer
from kvatlas.ingest.sockets.source_config import SourceConfig
from tests.actors.link.link_peers import wait_until
from tests.actors.subscriber.shards_by_mail import held
from tests.actors.subscriber.shards_on_sockets import SocketShards

MODEL = "m"
BLOCK_SIZE = 4
SETTINGS = SubscriberSettings(
    atlas=AtlasConfig(models={MODEL: ModelConfig(block_size_tokens=BLOCK_SIZE)}),
    outbox=OutboxSettings(request_s_max=1.0),
    report_s=0.1,
    settle_s=30.0,
)


class Rig:
    """Servers, shards, and one subscriber after another."""

    def __init__(self, tmp_path: Path) -> None:
        self.closing = ExitStack()
        self.shards = self.closing.enter_context(SocketShards(3))
        self.settings = SETTINGS
        self.folder = tmp_path / "checkpoints"
        self.servers: dict[str, SimulatedServer] = {}
        self.pods: dict[str, PodOrders] = {}
        self.session = 0
        self.leases: tuple[Lease, ...] = (Lease(10, 50),)
        self.service: SubscriberService | None = None
        self._n_prompts = 0

    def add_server(self, pod: str, **source: str) -> SimulatedServer:
        server = self.closing.enter_context(
            SimulatedServer(pod, MODEL, block_size=BLOCK_SIZE, blocks=2_000, cpu_blocks=50)
        )
        publisher = server.listen()
        found = DiscoveredPod(
            pod=pod,
            sources=(
                SourceConfig(endpoint=publisher.endpoint, replay_endpoint=publisher.replay_endpoint, pod=pod),
            ),
            settings=PodConfig(model=MODEL),
        )
        self.servers[pod] = server
        self.pods[pod] = PodOrders(pod=pod, source=encode_pod(found))
        return server

    def orders(self) -> SubscriberOrders:
        return SubscriberOrders(
            session=self.session,
            pods=tuple(self.pods.values()),
            lanes=self.leases,
            workers=(Lease(5, 20),),
            hash_seed="seed",
            keys=self.shards.keys,
        )

    def start(self) -> SubscriberService:
        self.session += 1
        links = Links(self.shards.keys, self.settings.link)
        self.closing.callback(links.close)
        orders = self.orders()
        service = SubscriberService("0", orders, self.settings, open_link=links.open)
        self.service = service
        self.closing.callback(service.stop)
        service.start(orders)
        service.follow(self.shards.view(self.session))
        return service

    def serve(self, pod: str, n_blocks: int = 200) -> None:
        self._n_prompts += 1
        self.servers[pod].serve([self._n_prompts, *range(n_blocks * BLOCK_SIZE)], 4)

    # What is compared.

    def agree(self) -> bool:
        """What the mirrors hold lies in the shards, and it is what the servers hold."""
        assert self.service is not None
        mirror = self.service.mirror
        residency = mirror.residency(MODEL)
        expected = {
            (lane, key): tiers
            for lane, name in mirror.fleet.lane_names.items()
            for key, tiers in residency.get(name, {}).items()
        }
        keys = sorted({key for _, key in expected})
        found: dict[tuple[int, int], int] = {}
        for shard in self.shards.shards:
            found |= held(shard.service.table, keys)
        n_held = sum(len(server.held()) for server in self.servers.values())
        return found == expected and len(expected) == n_held


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path)
    with rig.closing:
        yield rig


def is_ready(report: SubscriberReport) -> bool:
    """It may take its predecessor's place."""
    return report.settled and len(report.loaded) == 3


def states(part: FleetPart | None) -> dict[str, str]:
    assert part is not None
    return {worker.pod: worker.state for worker in part.workers}


def test_what_servers_hold_lies_in_the_shards(rig: Rig) -> None:
    rig.add_server("a")
    rig.add_server("b")
    rig.serve("a")  # before anybody listens
    service = rig.start()
    rig.serve("b")
    wait_until(rig.agree)
    wait_until(lambda: service.report().settled)
    assert len(service.report().loaded) == 3
    wait_until(lambda: states(service.mirror.part()) == {"a": "EXACT", "b": "EXACT"})
    assert service.report().lanes_free == 48


def test_shard_that_comes_back_empty_is_loaded_again_while_servers_go_on(rig: Rig) -> None:
    rig.add_server("a")
    rig.serve("a")
    service = rig.start()
    wait_until(rig.agree)
    for _ in range(3):
        rig.shards.restart(1)
        rig.serve("a")
        service.follow(rig.shards.view(rig.session))
        rig.serve("a")
        wait_until(rig.agree)
    wait_until(lambda: rig.shards.shards[1].replica.incarnation in service.report().loaded)


def test_pod_that_leaves_is_emptied_and_one_that_comes_is_followed(rig: Rig) -> None:
    rig.add_server("a")
    rig.add_server("b")
    rig.serve("a")
    rig.serve("b")
    service = rig.start()
    wait_until(rig.agree)
    gone = rig.pods.pop("a")
    rig.servers.pop("a")
    service.obey(rig.orders())
    wait_until(rig.agree)
    assert gone.pod not in states(service.mirror.part())
    rig.add_server("c")
    rig.serve("c")
    service.obey(rig.orders())
    wait_until(rig.agree)


def test_next_session_goes_on_from_the_checkpoint_and_settles_when_all_are_heard(
    rig: Rig, tmp_path: Path
) -> None:
    rig.settings = SubscriberSettings(
        atlas=SETTINGS.atlas, checkpoint_folder=str(tmp_path / "kept"), settle_s=30.0
    )
    rig.add_server("a")
    rig.serve("a")
    first = rig.start()
    wait_until(rig.agree)
    assert first.save()
    rig.serve("a")
    first.stop()
    for shard in rig.shards.shards:
        shard.service.retire([rig.session])
    rig.serve("a")
    rig.leases = (Lease(100, 50),)
    second = rig.start()
    assert second.mirror.fleet.lane_names.keys() >= {100}
    wait_until(lambda: is_ready(second.report()))
    assert rig.agree()


def test_pod_of_a_checkpoint_that_others_follow_by_now_is_forgotten(rig: Rig, tmp_path: Path) -> None:
    rig.settings = SubscriberSettings(atlas=SETTINGS.atlas, checkpoint_folder=str(tmp_path / "kept"))
    rig.add_server("a")
    rig.add_server("b")
    rig.serve("a")
    rig.serve("b")
    first = rig.start()
    wait_until(rig.agree)
    assert first.save()
    first.stop()
    rig.pods.pop("a")
    rig.leases = (Lease(100, 50),)
    second = rig.start()
    assert states(second.mirror.part()).keys() == {"b"}


def test_session_that_is_retired_knows_it(rig: Rig) -> None:
    rig.add_server("a")
    service = rig.start()
    wait_until(lambda: len(service.report().loaded) == 3)
    assert not service.is_fenced
    for shard in rig.shards.shards:
        shard.service.retire([rig.session])
    rig.serve("a")
    wait_until(lambda: service.is_fenced)


def test_worker_without_a_lane_is_heard_when_a_lease_comes(rig: Rig) -> None:
    rig.leases = (Lease(10, 1),)
    rig.add_server("a")
    rig.add_server("b")
    service = rig.start()
    rig.serve("a")
    rig.serve("b")
    wait_until(lambda: service.report().lanes_free == 0)
    rig.leases = (Lease(10, 1), Lease(30, 5))
    service.obey(rig.orders())
    wait_until(rig.agree)


def test_subscriber_that_never_hears_its_pods_settles_at_its_deadline(rig: Rig) -> None:
    rig.settings = SubscriberSettings(atlas=SETTINGS.atlas, settle_s=0.2)
    found = DiscoveredPod(pod="mute", sources=(SourceConfig(endpoint="tcp://127.0.0.1:1", pod="mute"),))
    rig.pods["mute"] = PodOrders(pod="mute", source=encode_pod(found))
    service = rig.start()
    assert not service.report().settled
    wait_until(lambda: service.report().settled)


def test_report_that_did_not_arrive_is_said_again(rig: Rig) -> None:
    rig.add_server("a")
    service = rig.start()
    rig.serve("a")
    wait_until(lambda: service.report().settled)
    while service.report().part is not None:
        pass
    service.not_told()
    assert service.report().part is not None
    assert service.report().part is None
    service.obey(msgspec.structs.replace(rig.orders(), wants_part=True))
    assert service.report().part is not None


def test_pods_that_dialled_a_socket_are_forgotten_when_it_closes(rig: Rig) -> None:
    source = SourceConfig(endpoint="tcp://127.0.0.1:*", bind=True)
    found = DiscoveredPod(pod="door", sources=(source,), settings=PodConfig(model=MODEL))
    rig.pods["door"] = PodOrders(pod="door", source=encode_pod(found))
    rig.settings = msgspec.structs.replace(SETTINGS, settle_s=0.1)
    service = rig.start()
    (endpoint,) = service.statistics().sockets.sources
    server = rig.closing.enter_context(SimulatedServer("guest", MODEL, block_size=BLOCK_SIZE))
    rig.servers["guest"] = server
    server.listen(endpoint=endpoint.endpoint, replay_endpoint=None).wait_for_subscribers()
    rig.serve("guest")
    wait_until(lambda: states(service.mirror.part()).keys() == {"guest"})
    wait_until(rig.agree)
    wait_until(lambda: service.report().settled)
    rig.pods.pop("door")
    rig.servers.pop("guest")
    service.obey(rig.orders())
    assert service.mirror.part().workers == ()
    wait_until(rig.agree)
