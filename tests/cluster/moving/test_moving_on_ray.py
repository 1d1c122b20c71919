"""A cluster on a real Ray is dumped, compared, searched and loaded into another one, by the commands."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from kvatlas.cluster import launch
from kvatlas.cluster.cli import app
from kvatlas.cluster.client import Client
from kvatlas.cluster.commands.cluster_commands import is_settled
from kvatlas.cluster.config.actors_config import ShardsConfig, SubscribersConfig
from kvatlas.cluster.config.cluster_config import ClusterConfig
from kvatlas.ingest.atlas import Atlas
from kvatlas.ingest.config import AtlasConfig
from kvatlas.ingest.discovery.config import DiscoveryConfig
from kvatlas.ingest.simulator.server import SimulatedServer
from tests.cluster.living_fleet import MODEL, Fleet, fleet_of, living_process_of, process_of, wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.ray,
    pytest.mark.usefixtures("shared_ray"),
    pytest.mark.timeout(300),
]
NAME, OTHER = "moving", "moved"


def config(name: str, fleet: Fleet | None) -> ClusterConfig:
    return ClusterConfig(
        name=name,
        shards=ShardsConfig(count=2, table_bytes_max=16 << 20),
        subscribers=SubscribersConfig(pods_each=2),
        discovery=DiscoveryConfig() if fleet is None else fleet.discovery,
        atlas=AtlasConfig(hash_seed="seed"),
    )


def kvatlas(*arguments: str, name: str = NAME, code: int = 0) -> Result:
    result = CliRunner().invoke(app, [*arguments, *(("--name", name) if name else ())])
    assert result.exit_code == code, (result.output, result.stderr)
    return result


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with fleet_of(4) as fleet:
        fleet.serve(60)
        yield fleet


@pytest.fixture(scope="module")
def client(shared_ray: None, fleet: Fleet) -> Iterator[Client]:
    with launch.start(config(NAME, fleet)) as client:
        fleet.wait_agreed(client)
        yield client
    launch.down(NAME)


@pytest.fixture
def file(tmp_path: Path, client: Client) -> Path:
    """A dump of the cluster as it is now."""
    path = tmp_path / "now.dump"
    kvatlas("dump", str(path))
    return path


def test_dump_says_what_it_has_written_and_is_what_the_cluster_holds(
    client: Client, fleet: Fleet, tmp_path: Path
) -> None:
    path = tmp_path / "d"
    told = json.loads(kvatlas("dump", str(path), "--json").stdout)
    assert told["workers"] == 4
    assert told["pairs"] == sum(len(server.held()) for server in fleet.servers)
    assert [path] == list(tmp_path.iterdir())
    assert "the same: " in kvatlas("diff", str(path), "--live").stdout


def test_dumps_differ_where_something_was_served_in_between(client: Client, fleet: Fleet, file: Path) -> None:
    fleet.serve_at(fleet.servers[1])
    fleet.wait_agreed(client)
    told = json.loads(kvatlas("diff", str(file), "--live", "--json", code=1).stdout)
    assert told["only_left"] == 0 < told["only_right"]
    assert {row["pod"] for row in told["rows"]} == {"pod1"}
    shown = kvatlas("diff", str(file), "--live", code=1).stdout
    assert "only in cluster moving" in " ".join(shown.split())


def test_dumps_taken_under_load_are_each_of_one_moment(client: Client, fleet: Fleet, tmp_path: Path) -> None:
    """Caches only grow here, so each dump lies within the next one."""
    over = threading.Event()

    def serve() -> None:
        while not over.is_set():
            fleet.serve(1)

    serving = threading.Thread(target=serve)
    serving.start()
    try:
        files = [tmp_path / str(number) for number in range(3)]
        for path in files:
            kvatlas("dump", str(path))
    finally:
        over.set()
        serving.join()
    for before, after in pairwise(files):
        result = CliRunner().invoke(app, ["diff", str(before), str(after), "--json"])
        assert json.loads(result.stdout)["only_left"] == 0
    fleet.wait_agreed(client)


def test_block_is_found_by_its_key_in_a_dump_and_live(client: Client, fleet: Fleet, file: Path) -> None:
    prompt = fleet.prompts[0]
    key = f"{int(client.block_keys(prompt, model=fleet.model)[0]):#x}"
    holders = {server.pod for server in fleet.servers if server.cached_tokens(prompt)}
    for where in (str(file), "--live"):
        told = json.loads(kvatlas("grep", where, "--key", key, "--tier", "gpu", "--json").stdout)
        assert {row["pod"] for row in told["rows"]} == holders
    assert kvatlas("grep", str(file), "--pod", "nobody", code=1).stdout == "nothing found\n"


def test_cluster_is_the_same_after_resharding_and_after_its_processes_were_killed(
    client: Client, fleet: Fleet, file: Path
) -> None:
    kvatlas("scale", "--shards", "3")
    kvatlas("diff", str(file), "--live")
    for shard in (0, 2):
        name, killed = kill(client, shard)
        wait_until(lambda name=name, killed=killed: process_of(name) not in (0, killed), 60)  # type: ignore[misc]
    wait_until(lambda: is_whole(client), 60, client.status)
    fleet.wait_agreed(client)
    kvatlas("diff", str(file), "--live")
    kvatlas("scale", "--shards", "2")
    kvatlas("diff", str(file), "--live")


def kill(client: Client, shard: int) -> tuple[str, int]:
    """End the process of a shard that serves; its actor's name and what its process id was."""
    [serving] = [layout.number for layout in client.status().layouts if layout.state == "serving"]
    name = f"{NAME}/shard/{serving}-{shard}-0"
    killed = living_process_of(name)
    os.kill(killed, signal.SIGKILL)
    return name, killed


def is_whole(client: Client) -> bool:
    status = client.status()
    return is_settled(status) and all(shard.whole for shard in status.shards)


def test_dump_while_a_shard_is_dead_is_one_clear_line_and_no_file(
    client: Client, fleet: Fleet, tmp_path: Path
) -> None:
    name, killed = kill(client, 0)
    result = CliRunner().invoke(app, ["dump", str(tmp_path / "d"), "--name", NAME])
    if result.exit_code:  # else another process was there already
        assert result.stderr.splitlines()[-1].startswith("kvatlas: ")
        assert list(tmp_path.iterdir()) == []
    wait_until(lambda: process_of(name) not in (0, killed), 60)
    wait_until(lambda: is_whole(client), 60, client.status)
    fleet.wait_agreed(client)


def test_dump_is_shown_by_another_cluster_as_degraded_until_it_is_dropped(
    client: Client, fleet: Fleet, file: Path
) -> None:
    with launch.start(config(OTHER, None)) as other:
        kvatlas("load", str(file), name=OTHER)
        told = {"pod0", "pod1", "pod2", "pod3"}
        wait_until(lambda: {worker.pod for worker in other.pods()} == told, 60, other.pods)
        assert {worker.state for worker in other.pods()} == {"DEGRADED"}
        assert all("from a dump of " in worker.doubts[0] for worker in other.pods())
        for prompt in fleet.sample(10):
            scores = other.score(prompt, model=fleet.model)
            said = {match.pod: match.cached_tokens for match in scores.matches if match.cached_tokens}
            assert said == fleet.truth(prompt)
        kvatlas("diff", str(file), "--live", name=OTHER)
        kvatlas("scale", "--shards", "1", name=OTHER)
        kvatlas("diff", str(file), "--live", name=OTHER)
        kvatlas("load", "--drop", name=OTHER)
        wait_until(lambda: not other.pods(), 60, other.pods)
    launch.down(OTHER)


def test_cluster_that_hears_the_workers_itself_shows_nothing_of_a_dump(
    client: Client, fleet: Fleet, file: Path
) -> None:
    told = json.loads(kvatlas("load", str(file), "--json").stdout)
    assert (told["shown"]["workers"], told["shown"]["heard"]) == (0, 4)
    fleet.wait_agreed(client)
    kvatlas("load", "--drop")
    fleet.wait_agreed(client)


@pytest.mark.parametrize("model", [MODEL, "unheard/model"])
def test_dump_of_other_keys_is_refused(client: Client, tmp_path: Path, model: str) -> None:
    """Also of a model that the cluster has not heard of."""
    elsewhere = Atlas(AtlasConfig(hash_seed="another seed"))
    payloads: list[bytes] = []
    SimulatedServer("pod0", model, publish=payloads.append).serve(range(100))
    for number, payload in enumerate(payloads):
        elsewhere.ingest(f"kv@pod0@{model}".encode(), number, payload)
    assert elsewhere.dump(tmp_path / "d").pairs
    refused = kvatlas("load", str(tmp_path / "d"), code=1)
    assert "expected block keys of this hash_seed, got another's" in refused.stderr


def test_torn_dump_is_refused_and_nothing_is_loaded(client: Client, file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-7])
    assert "cut short" in kvatlas("load", str(file), code=1).stderr
    wait_until(lambda: not process_of(f"{NAME}/guest/dump"), 60)
    assert "there is none" in kvatlas("load", "--drop", code=1).stderr
