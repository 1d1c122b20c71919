"""Torn dumps before good ones, broken pipes, twins among guests, a folder that goes wrong: on a real Ray."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import ray
from typer.testing import CliRunner, Result

from kvatlas.actors.guest.joining import JoinedIndex, join
from kvatlas.cluster import launch
from kvatlas.cluster.cli import app
from kvatlas.cluster.client import Client
from kvatlas.cluster.standby import following
from kvatlas.cluster.standby.standby_client import StandbyClient
from kvatlas.index.dumps.dump_file import write_dump
from kvatlas.index.dumps.meta import DumpMeta, keyspaces_of
from kvatlas.index.errors import ClusterError
from kvatlas.index.shards import ShardedIndex
from tests.cluster.living_fleet import wait_until
from tests.index.backends.telling import add, held
from tests.index.dumps.worlds import added, apply_all, part_of
from tests.models.world import GPU, chain

pytestmark = [
    pytest.mark.slow,
    pytest.mark.ray,
    pytest.mark.usefixtures("shared_ray"),
    pytest.mark.timeout(300),
]
NAME, SEED = "adverse", "seed"
KEYS = chain(10, 1)
COMMAND = "from kvatlas.cluster.cli import app; app()"


@pytest.fixture(scope="module")
def client(shared_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """Begun by the command, with a folder of dumps of which the newest cannot be used."""
    folder = tmp_path_factory.mktemp("adverse")
    dumps = folder / "dumps"
    dumps.mkdir()
    dump(dumps / "older", 3, created_s=1_000.0)
    torn = dump(dumps / "torn", 3, created_s=2_000.0)
    torn.write_bytes(torn.read_bytes()[:-7])
    (dumps / "loop").symlink_to("loop")
    (folder / "c.yaml").write_text(
        f"name: {NAME}\nshards: {{count: 1, table_bytes_max: 16777216}}\natlas: {{hash_seed: {SEED}}}\n"
    )
    up = CliRunner().invoke(app, ["up", "-c", str(folder / "c.yaml"), "--follow-dumps", str(dumps)])
    assert up.exit_code == 0, up.output
    with launch.connect(NAME) as client:
        yield client
    launch.down(NAME)


def dump(path: Path, n_pods: int, created_s: float | None = None, model: str = "m") -> Path:
    parts = (part_of({f"p{lane}": lane for lane in range(n_pods)}, model=model),)
    index = ShardedIndex(1)
    apply_all(index, [added(lane, segment) for segment in range(4) for lane in range(n_pods)])
    keyspaces = keyspaces_of(parts, "fold64", SEED)
    created_s = created_s or time.time()
    write_dump(path, DumpMeta(created_s=created_s, keyspaces=keyspaces, parts=parts), index.export())
    return path


def kvatlas(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(app, [*map(str, arguments), "--name", NAME])
    assert result.exit_code == code, (result.output, result.stderr)
    return result


def follows() -> following.FollowerReport:
    return following.following(NAME)


def pods(client: Client) -> int:
    return len(client.pods())


def test_an_older_dump_is_shown_where_the_newest_cannot_be_used_and_stays_when_the_folder_goes(
    client: Client, tmp_path: Path
) -> None:
    wait_until(lambda: pods(client) == 3, 60, follows)
    wait_until(lambda: follows().created_s == 1_000.0, 60, follows)
    shutil.rmtree(follows().folder)
    wait_until(lambda: follows().counts.get("folders_missing", 0) > 0, 60, follows)
    assert pods(client) == 3
    following.follow_dumps(NAME, tmp_path)
    assert follows().folder == str(tmp_path)
    wait_until(lambda: pods(client) == 0, 60, client.pods)
    following.stop_following(NAME)
    following.stop_following(NAME)


def test_a_good_dump_is_loaded_right_after_one_that_is_torn(client: Client, tmp_path: Path) -> None:
    good, torn = dump(tmp_path / "good", 5), tmp_path / "torn"
    torn.write_bytes(good.read_bytes()[:-7])
    for _ in range(2):
        assert "cut short" in kvatlas("load", torn, code=1).stderr
        kvatlas("load", good)
        wait_until(lambda: pods(client) == 5, 60, client.pods)
        assert "cut short" in kvatlas("load", torn, code=1).stderr
        assert pods(client) == 5, "what was loaded before stays"
        kvatlas("load", "--drop")
    wait_until(lambda: pods(client) == 0, 60, client.pods)


def test_more_pods_than_a_session_has_lanes_at_first_are_loaded(client: Client, tmp_path: Path) -> None:
    kvatlas("load", dump(tmp_path / "many", 1_500))
    wait_until(lambda: pods(client) == 1_500, 60, lambda: pods(client))
    [guest] = client.status().subscribers
    assert guest.n_lanes == 2_048, "not twice as many: what is taken in vain would rest"
    with closing(StandbyClient(Client(NAME), Client(NAME))) as both:
        both.judge()
        assert both.differences == []
    kvatlas("load", "--drop")


def test_a_dump_into_a_pipe_that_breaks_is_one_line(client: Client) -> None:
    reads, writes = os.pipe()
    os.close(reads)
    with os.fdopen(writes, "wb") as broken:
        done = subprocess.run(
            [sys.executable, "-c", COMMAND, "dump", "-", "--name", NAME],
            stdout=broken,
            stderr=subprocess.PIPE,
            env={**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address},
            text=True,
            check=False,
            timeout=120,
        )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("kvatlas: stream: expected to write a dump, got ")
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr


def test_of_two_guests_of_one_name_the_later_one_writes(client: Client) -> None:
    first, second = join(NAME, "twin"), join(NAME, "twin")
    lane = second.numbers.lane()
    add(second, lane, KEYS)
    wait_until(lambda: is_over(first), 60)
    assert held(second, KEYS) == [{lane: GPU}] * 10
    first.close()
    assert held(second, KEYS) == [{lane: GPU}] * 10
    second.close()


def is_over(index: JoinedIndex) -> bool:
    try:
        add(index, index.numbers.lane(), KEYS[:1])
    except ClusterError:
        return True
    return False


def test_a_standby_is_asked_where_the_first_was_never_there(client: Client) -> None:
    with launch.connect("nowhere", standby=NAME) as both:
        assert isinstance(both, StandbyClient)
        assert both.asked == NAME
        assert both.score([1] * 64, model="m") == {}
    with closing(StandbyClient(Client("nowhere"), Client(NAME), look_s=600.0)) as unlooked:
        assert unlooked.asked == "nowhere"
        assert asyncio.run(unlooked.score_async([1] * 64, model="m")) == {}
        assert unlooked.asked == NAME
