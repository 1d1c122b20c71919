"""The commands around a cluster, on a real Ray: up, status, pods, scale, down."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray
from typer.testing import CliRunner, Result

from kvatlas.cluster.cli import app
from kvatlas.ingest.simulator.server import SimulatedServer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.ray,
    pytest.mark.usefixtures("shared_ray"),
    pytest.mark.timeout(300),
]
MODEL = "some/model"
PROMPT = list(range(1000, 1100))
NAME = ("--name", "commands")


def kvatlas(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def done(*arguments: str) -> str:
    result = kvatlas(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def status() -> dict[str, list[dict[str, object]]]:
    told: dict[str, list[dict[str, object]]] = json.loads(done("status", *NAME, "--json"))
    return told


def wait_until(is_so: Callable[[], bool], timeout_s: float = 60.0) -> None:
    until_s = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < until_s, status()


@pytest.fixture(scope="module")
def server() -> Iterator[SimulatedServer]:
    with SimulatedServer("pod-a", MODEL) as server:
        yield server


@pytest.fixture(scope="module")
def cluster(shared_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Up while the module's tests run; yields its configuration."""
    file = tmp_path_factory.mktemp("config") / "cluster.yaml"
    file.write_text("name: commands\nshards: {count: 2, table_bytes_max: 8388608}\n")
    result = kvatlas("up", "-c", str(file))
    assert result.exit_code == 0, result.output
    assert "commands: layout 1 serving: 2 of 2 processes up" in result.stderr
    yield file
    assert done("down", *NAME) == "commands: down\n"
    gone = kvatlas("status", *NAME)
    assert (gone.exit_code, gone.stderr.count("\n")) == (1, 1)
    assert gone.stderr.startswith("kvatlas: cluster 'commands': expected ")


def test_up_twice_finds_the_cluster_that_runs(cluster: Path) -> None:
    assert "layout 1 serving" in kvatlas("up", "-c", str(cluster)).stderr


def test_up_with_another_configuration_says_what_differs(cluster: Path) -> None:
    result = kvatlas("up", "-c", str(cluster), "--shards", "3")
    assert result.exit_code == 2
    assert "$.shards.count: 3, not 2" in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_pod_is_added_shown_and_removed(cluster: Path, server: SimulatedServer) -> None:
    publisher = server.listen()
    server.serve(PROMPT)
    replay = publisher.replay_endpoint
    assert replay is not None
    events = ("--endpoint", publisher.endpoint, "--replay-endpoint", replay)
    serves = ("--serving-url", "http://127.0.0.1:9", "--role", "decode", "--label", "zone=z", "--draining")
    added = done("pods", "add", "pod-a", *events, *serves, *NAME)
    assert added == "pod-a: added to commands\n"
    wait_until(lambda: [worker["state"] for worker in status()["workers"]] == ["EXACT"])
    (pod,) = json.loads(done("pods", "list", *NAME, "--json"))
    assert (pod["pod"], pod["state"], pod["found_by"]) == ("pod-a", "following", "command line")
    assert pod["serves"] == "http://127.0.0.1:9, decode, draining"
    shown = done("status", *NAME)
    assert "pod-a" in shown and "EXACT" in shown and "serving" in shown

    assert done("pods", "remove", "pod-a", *NAME) == "pod-a: removed from commands\n"
    again = kvatlas("pods", "remove", "pod-b", *NAME)
    assert (again.exit_code, "pod-b: expected a pod that was added by hand" in again.stderr) == (2, True)


def test_another_process_finds_it_by_its_address(cluster: Path) -> None:
    address = ray.get_runtime_context().gcs_address
    without_mode = {name: value for name, value in os.environ.items() if name != "RAY_AUTH_MODE"}
    main = "from kvatlas.cluster.cli import main; main()"
    finished = subprocess.run(
        [sys.executable, "-c", main, "status", *NAME, "--address", address, "--json"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=without_mode,
    )
    assert (finished.returncode, finished.stderr) == (0, "")
    assert json.loads(finished.stdout)["cluster"] == "commands"


def test_scale_waits_until_the_new_layout_serves(cluster: Path) -> None:
    result = kvatlas("scale", "--shards", "3", *NAME)
    assert result.exit_code == 0, result.output
    assert "layout 2 serving: 3 of 3 processes up" in result.stderr
    serving = [layout for layout in status()["layouts"] if layout["state"] == "serving"]
    assert [layout["n_shards"] for layout in serving] == [3]


def test_a_name_that_nobody_has_is_a_clear_line(cluster: Path) -> None:
    result = kvatlas("scale", "--replicas-per-node", "1", "--name", "nobody")
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert result.stderr.startswith("kvatlas: cluster 'nobody': expected ")
