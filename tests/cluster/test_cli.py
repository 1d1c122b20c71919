"""The command line, as a user types it."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from threading import Thread

import pytest
from typer.testing import CliRunner, Result

from kvatlas.cluster.cli import app
from kvatlas.ingest.simulator.server import SimulatedServer

PROMPT = list(range(1000, 1100))


def kvatlas(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def test_the_version_is_that_of_the_package() -> None:
    result = kvatlas("--version")
    assert (result.exit_code, result.stdout) == (0, f"kvatlas {version('kvatlas')}\n")


@pytest.mark.slow
def test_the_demo_runs_both_ways_and_saves_its_chart(tmp_path: Path) -> None:
    chart = tmp_path / "result.svg"
    result = kvatlas("demo", "--embedded", "--quick", "--pods", "3", "--chart", str(chart))
    assert result.exit_code == 0, result.output
    assert f"chart saved as {chart}" in result.stdout
    assert ElementTree.parse(chart).getroot().tag.endswith("svg")


@pytest.mark.slow
def test_json_alone_goes_to_standard_output(tmp_path: Path) -> None:
    result = kvatlas(
        "demo", "--embedded", "--quick", "--pods", "2", "--chart", str(tmp_path / "c.svg"), "--json"
    )
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert summary["by score"]["requests"] == summary["round robin"]["requests"] == 300
    assert summary["by score"]["hit_rate"] > summary["round robin"]["hit_rate"]


@pytest.fixture
def serving() -> Iterator[Callable[[SimulatedServer], str]]:
    """Starts a server that serves `PROMPT` once someone has subscribed; returns its endpoint."""
    started: list[tuple[SimulatedServer, Thread]] = []

    def start(server: SimulatedServer) -> str:
        publisher = server.listen()

        def serve() -> None:
            publisher.wait_for_subscribers()
            server.serve(PROMPT)

        thread = Thread(target=serve)
        thread.start()
        started.append((server, thread))
        return publisher.endpoint

    yield start
    for server, thread in started:
        thread.join()
        server.close()


@pytest.mark.slow
def test_a_real_server_is_followed_and_a_prompt_scored(
    tmp_path: Path, serving: Callable[[SimulatedServer], str]
) -> None:
    endpoint = serving(SimulatedServer("pod-a", "some/model"))
    prompt = tmp_path / "prompt.json"
    prompt.write_text(json.dumps(PROMPT))
    result = kvatlas("demo", "--pod", endpoint, "--seconds", "3", "--score-tokens", str(prompt), "--json")
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert summary["pods"] == {"pod-a": {"blocks": {"gpu": 6}}}
    assert summary["scores"] == {"pod-a": 6.0}
    assert summary["events"] == 1


@pytest.mark.slow
def test_token_ids_can_stand_on_the_command_line(serving: Callable[[SimulatedServer], str]) -> None:
    endpoint = serving(SimulatedServer("pod-a", "some/model"))
    ids = ",".join(str(token_id) for token_id in PROMPT[:40])
    result = kvatlas("demo", "--pod", endpoint, "--seconds", "3", "--score-prompt-ids", ids, "--json")
    assert json.loads(result.stdout)["scores"] == {"pod-a": 2.0}


@pytest.mark.parametrize(
    ("arguments", "exit_code", "said"),
    [
        (("--pod", "nonsense"), 2, "expected tcp://HOST:PORT, got 'nonsense'"),
        (("--pod", "tcp://127.0.0.1:1", "--seconds", "0.1"), 1, "nobody there in 0."),
        (("--pod", "tcp://127.0.0.1:1", "--score-prompt-ids", "1,two"), 2, "expected a list of integers"),
        (("--pod", "tcp://127.0.0.1:1", "--score-tokens", "/no/such/file"), 1, "/no/such/file"),
        (("--model", "m"), 2, "expected --pod with them"),
        (("--quick", "--chart", "/no/such/folder/c.svg"), 2, "existing folder"),
    ],
)
def test_what_a_user_can_mend_is_one_clear_line(
    arguments: tuple[str, ...], exit_code: int, said: str
) -> None:
    result = kvatlas("demo", *arguments)
    assert result.exit_code == exit_code
    assert said in result.stderr
    assert result.stderr.startswith("kvatlas: ")
    assert "Traceback" not in result.output
    assert result.stderr.count("\n") == 1
