"""The walks of docs/architecture.md: what is named exists, and is called in that order, without Ray."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from kvatlas import Atlas, TokenizeConfig
from kvatlas.actors.guest.guest_service import GuestService
from kvatlas.actors.link.links import Links
from kvatlas.actors.moving.loaded_dump import LoadedDump
from kvatlas.actors.orders import (
    ClusterView,
    Layout,
    Lease,
    PartView,
    PodOrders,
    ReaderSecrets,
    SubscriberOrders,
)
from kvatlas.actors.reading.cluster_reader import ClusterReader
from kvatlas.actors.subscriber.service import SubscriberService
from kvatlas.actors.subscriber.settings import SubscriberSettings
from kvatlas.cluster.demo.demo_atlas import EmbeddedAtlas
from kvatlas.cluster.demo.demo_run import DemoConfig, DemoRun
from kvatlas.cluster.demo.fleet import Fleet, FleetConfig
from kvatlas.cluster.demo.traffic import TrafficConfig, generate_turns
from kvatlas.index.dumps.dump_file import DumpReader
from kvatlas.ingest.discovery.pods import DiscoveredPod, encode_pod
from kvatlas.ingest.simulator.server import SimulatedServer
from kvatlas.ingest.sockets.source_config import SourceConfig
from tests.actors.link.link_peers import wait_until
from tests.actors.loads.books import loads, reserve
from tests.actors.loads.routers import QUICK, routers
from tests.actors.loads.routers import Fleet as Routers
from tests.actors.moving.cut_rig import CutRig
from tests.actors.reading.small_cluster import ELSEWHERE, HERE, KEYS, SEED, SETTINGS, Board, ShardAtHand
from tests.e2e.chat_tokenizer import write_chat_tokenizer
from tests.index.choosing.small_fleet import SmallFleet, prompt
from tests.ingest.plain_batches import batch, stored
from tests.ingest.remote.shared_atlas import MODEL, TOKENS, new_atlas, new_reader, settle
from tests.ingest.remote.shared_atlas import closing as closing_atlases
from tests.offload.storing.files_at_hand import open_process
from tests.servers.fixtures import redis_server as redis_server
from tests.servers.fixtures import shared_servers as shared_servers
from tests.servers.redis_server import RedisServer
from tests.test_layout import ROOT
from tests.walks import ARCHITECTURE, STEP, Calls, defines, walks

PROMPT = list(range(1000, 1100))  # 100 token ids: six full blocks of 16
SCORES = {"pod-a": 6.0}
SESSION = 1
FETCHER = "actors/reading/fetcher.py"
ASKING = (FETCHER, "actors/shard/service.py")
"""What is passed only on the way to a shard on another node."""
ON_RAY = ("cluster/moving/loading.py",)
"""What a load passes before its content is where no Ray is needed."""


@pytest.mark.slow
def test_what_pages_name_by_file_and_function_exists() -> None:
    assert len(STEP.findall(ARCHITECTURE)) > 35
    missing = [
        f"{page.name}: {file}:{name}"
        for page in sorted((ROOT / "docs").glob("*.md"))
        for file, name in STEP.findall(page.read_text(encoding="utf-8"))
        if not defines(ROOT / file, name)
    ]
    assert not missing


@pytest.mark.parametrize(
    "walk",
    ["write", "read", "choose", "feed", "ask", "share", "chat", "host", "dump", "load", "keep", "fetch"],
)
def test_a_walk_takes_at_most_six_files(walk: str) -> None:
    assert 3 <= len({file for file, _ in walks()[walk]}) <= 6


@pytest.mark.slow
def test_python_steps_of_the_walks_are_called_in_their_order_and_without_ray() -> None:
    calls = Calls()
    config = DemoConfig(
        fleet=FleetConfig(pods=2, blocks_per_pod=256),
        traffic=TrafficConfig(turns=2, open_chats=1, system_prompts=1, system_prompt_tokens=64),
        settle_each_turn=True,
    )
    ray_before = "ray" in sys.modules
    with ExitStack() as closing:
        fleet = closing.enter_context(Fleet(config.fleet))
        with calls.of_threads_to_come():
            atlas = closing.enter_context(EmbeddedAtlas(fleet))
        run = DemoRun(config, "by score", fleet, atlas)
        fleet.wait_for_subscribers()
        for turn in generate_turns(config.traffic):
            with calls.of_this_thread():
                run.serve(turn)
            run.settle()
    for walk in ("write", "read"):
        assert calls.missed(walk) is None
    assert ("ray" in sys.modules) == ray_before


@pytest.mark.slow
def test_python_steps_of_a_chats_walk_are_called_in_their_order_and_without_ray(tmp_path: Path) -> None:
    from kvatlas.tokenize.tokenizers import Tokenizers

    write_chat_tokenizer(tmp_path)
    calls = Calls()
    ray_before = "ray" in sys.modules
    with ExitStack() as closing:
        tokenizers = Tokenizers(TokenizeConfig(models={"some/model": str(tmp_path)}))
        closing.callback(tokenizers.close)
        atlas = Atlas(tokenizers=tokenizers)
        with calls.of_this_thread():
            atlas.score(messages=[{"role": "user", "content": "Hello!"}], model="some/model")
    assert calls.missed("chat") is None
    assert ("ray" in sys.modules) == ray_before


def test_python_steps_of_a_choice_are_called_in_their_order_and_without_ray() -> None:
    calls = Calls()
    ray_before = "ray" in sys.modules
    with SmallFleet(("pod-a", "pod-b")) as fleet:
        fleet.hold("pod-b", 3)
        with calls.of_this_thread():
            choice = fleet.chooser.choose(prompt(3), model="m")
        assert (choice.pod, choice.cached_tokens, choice.is_reserved) == ("pod-b", 48, True)
    assert calls.missed("choose") is None
    assert ("ray" in sys.modules) == ray_before


def test_python_steps_of_a_load_from_book_to_book_are_called_in_their_order() -> None:
    calls = Calls()
    once = msgspec.structs.replace(QUICK, whole_s=3600.0, silent_s_max=3600.0)  # no frames but those meant
    with ExitStack() as closing:
        with calls.of_threads_to_come():
            first, second = made = closing.enter_context(routers(2, KEYS, Routers(), once))
        wait_until(lambda: all(router.sharing.statistics().peers for router in made))  # and have greeted
        calls.called.clear()
        reserve(first.book, "a", "request")
        wait_until(lambda: loads(second.book) == loads(first.book) != {})
    assert calls.missed("share") is None


def test_python_steps_of_a_walk_through_a_server_are_called_in_their_order_and_without_ray(
    redis_server: RedisServer,
) -> None:
    calls = Calls()
    ray_before = "ray" in sys.modules
    with calls.of_threads_to_come():
        atlas = new_atlas(redis_server)
    reader = new_reader(redis_server)
    with closing_atlases(atlas, reader):
        settle(atlas, reader=reader)
        calls.called.clear()  # of the empty load
        atlas.ingest(b"kv@a@m", 0, batch(stored([1, 2], TOKENS[:32])))
        settle(atlas, reader=reader)
        with calls.of_this_thread():
            assert dict(reader.score(TOKENS, model=MODEL)) == {"a": 2.0}
        assert calls.missed("host") is None
    assert ("ray" in sys.modules) == ray_before


class RigAsDesk:
    """A cut's sessions and shards, where Ray would have found them."""

    secrets = ReaderSecrets(hash_seed="seed", algorithm="fold64", tier_weights={}, keys=KEYS, view_s_max=60.0)

    def __init__(self, rig: CutRig) -> None:
        self.view, self.hold, self.release, self.link = rig.view, rig.hold, rig.release, rig.link

    def __enter__(self) -> RigAsDesk:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def test_python_steps_of_a_dump_are_called_in_their_order_and_it_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kvatlas.cluster.moving import dumping  # imports Ray

    calls = Calls()
    with ExitStack() as closing:
        with calls.of_threads_to_come():
            there, here = CutRig(), CutRig(n_sessions=0, n_shards=2)
            for rig in (there, here):
                closing.callback(rig.close)
            orders = SubscriberOrders(session=70, lanes=(Lease(300, 50),), workers=(Lease(900, 50),))
            guest = GuestService("guest/dump", orders, open_link=here.links.open)
            closing.callback(guest.stop)
            guest.start(orders)
        monkeypatch.setattr(dumping, "ClusterDesk", lambda _: RigAsDesk(there))
        calls.called.clear()
        with calls.of_this_thread():
            report = dumping.dump_cluster(None, tmp_path / "dump")  # type: ignore[arg-type] # pyright: ignore
        assert (report.workers, report.pairs) == (4, 12)
        assert calls.missed("dump") is None

        guest.follow(here.shards.view(70))
        loaded = LoadedDump(guest)
        calls.called.clear()
        with calls.of_this_thread(), DumpReader(tmp_path / "dump") as dump:
            loaded.load(dump.meta.parts, list(dump), dump.meta.created_s)
        guest.wait_delivered(20.0)
        wait_until(lambda: calls.missed("load", but=ON_RAY) is None)
        assert sum(shard.service.table.statistics()["entries"] for shard in here.shards.shards) == 12


def test_python_steps_of_a_chunks_walks_are_called_in_their_order_and_without_ray(tmp_path: Path) -> None:
    calls = Calls()
    ray_before = "ray" in sys.modules
    writer, reader = (open_process(tmp_path / "store", inventory=False) for _ in range(2))
    try:
        with calls.of_this_thread():
            assert len(writer.store(1, 2).ok) == 2
        assert calls.missed("keep") is None
        calls.called.clear()
        with calls.of_this_thread():
            reader.lookup(1, 2)
            assert len(reader.load(1, 2).ok) == 2
        assert calls.missed("fetch") is None
        assert reader.holds(1, 2)
    finally:
        for process in (writer, reader):
            process.storage.close()
    assert ("ray" in sys.modules) == ray_before


class ClusterInThisProcess:
    """A server, a subscriber, a shard and a directory's view, on real sockets and a real shared table."""

    def __init__(self, folder: Path, closing: ExitStack) -> None:
        self.server = closing.enter_context(SimulatedServer("pod-a", "some/model"))
        self.shard = ShardAtHand(1, 0, 100, folder)
        closing.callback(self.shard.close)
        self.links = Links(KEYS)
        closing.callback(self.links.close)
        self.board = Board()
        publisher = self.server.listen()
        source = SourceConfig(endpoint=publisher.endpoint, replay_endpoint=publisher.replay_endpoint)
        orders = SubscriberOrders(
            session=SESSION,
            pods=(PodOrders(pod="pod-a", source=encode_pod(DiscoveredPod(pod="pod-a", sources=(source,)))),),
            lanes=(Lease(10, 50),),
            workers=(Lease(5, 20),),
            hash_seed=SEED,
            keys=KEYS,
        )
        settings = SubscriberSettings(report_s=0.1)
        self.subscriber = SubscriberService("0", orders, settings, open_link=self.links.open)
        closing.callback(self.subscriber.stop)
        closing.callback(self.board.silence)
        self.shard.service.sessions_live([SESSION])
        self.show()
        self.subscriber.start(orders)
        wait_until(lambda: self.shard.service.is_whole)

    def show(self) -> None:
        """To the subscriber and to readers."""
        layout = Layout(number=1, n_shards=1, replicas=(self.shard.replica(HERE),))
        part = PartView(session=SESSION, subscriber="0", lost=False, part=self.subscriber.mirror.part())
        version = self.board.show(layout, [part])
        self.subscriber.follow(ClusterView(version=version, cluster="small", serving=layout))

    def reader(self, node_id: str, closing: ExitStack) -> ClusterReader:
        secrets = ReaderSecrets(
            hash_seed=SEED, algorithm="fold64", tier_weights={}, keys=KEYS, view_s_max=60.0
        )
        reader = ClusterReader(
            self.board.fetch, secrets, node_id=node_id, open_link=self.links.open, settings=SETTINGS
        )
        closing.callback(reader.close)
        return reader


@pytest.mark.slow
def test_python_steps_of_the_walks_through_a_cluster_are_called_in_their_order(tmp_path: Path) -> None:
    from kvatlas.cluster.client import Client  # imports Ray, which the test above does without

    calls = Calls()
    with ExitStack() as closing:
        with calls.of_threads_to_come():
            cluster = ClusterInThisProcess(tmp_path, closing)
        calls.called.clear()  # of the empty load
        cluster.server.serve(PROMPT, 1)
        looks = count(1)

        def is_fed() -> bool:
            """Now and then another prompt: a step that was under way has carried the first out of order."""
            if (look := next(looks)) % 100 == 0:
                cluster.server.serve([look] * 16, 1)
            return calls.missed("feed") is None

        wait_until(is_fed)

        cluster.show()
        for node_id, but in ((HERE, ASKING), (ELSEWHERE, ())):
            reader = cluster.reader(node_id, closing)
            wait_until(lambda reader=reader: dict(reader.score(PROMPT, model="some/model")) == SCORES)  # type: ignore[misc]
            client = Client("small")
            at_hand = SimpleNamespace(reader=lambda reader=reader: reader)  # where Ray would have found it
            client._connection = at_hand  # type: ignore[assignment] # pyright: ignore
            calls.called.clear()
            with calls.of_this_thread():
                assert dict(client.score(PROMPT, model="some/model")) == SCORES
            assert calls.missed("ask", but=but) is None
            assert calls.has(FETCHER) == (node_id == ELSEWHERE)
