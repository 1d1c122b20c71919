"""The commands around a cluster, as far as they need none to be there."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from kvatlas.cluster.cli import app
from kvatlas.cluster.commands.options import reach
from kvatlas.index.errors import ClusterError


def kvatlas(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(app, arguments, env=environment)


def test_check_prints_what_is_no_default_and_starts_nothing(tmp_path: Path) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text("shards: {count: 4, placement: pack}\natlas: {hash_seed: {env: SEED}}\n")
    result = kvatlas(
        "up", "-c", str(file), "--name", "mine", "--check", SEED="a secret", KVATLAS__SCORERS__COUNT="2"
    )
    assert result.exit_code == 0, result.output
    assert result.stdout == (
        "name: mine\nshards:\n  placement: pack\nscorers:\n  count: 2\natlas:\n  hash_seed: (secret)\n"
    )


def test_what_is_checked_can_be_read_again(tmp_path: Path) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text("shards: {count: 9}\n")
    file.write_text(kvatlas("up", "-c", str(file), "--check").stdout)
    assert kvatlas("up", "-c", str(file), "--check").stdout == "shards:\n  count: 9\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("up", "-c", "nowhere.yaml"), "configuration: expected a file that can be read"),
        (("up", "--check", "--name", "Not Good"), "$.name: expected 1 to 63 lower-case letters"),
        (("scale",), "scale: expected --shards, --replicas-per-node, --off-node or --all-nodes"),
        (("scale", "--off-node", "a", "--all-nodes"), "scale: expected --off-node or --all-nodes, got both"),
        (("pods", "add", "a"), "'a': expected one of endpoint, sources and url, got none"),
        (("pods", "add", "a", "--endpoint", "x", "--ranks", "2"), "endpoint: expected a port to add rank 1"),
        (("pods", "add", "a", "--serving-url", "http://h:1"), "or serving.url and a model"),
        (("pods", "add", "a", "--serving-url", "h:1", "--model", "m"), "serving.url: expected http://"),
        (("pods", "add", "a", "--role", "chef"), "--role: expected one of both, prefill, decode, got 'chef'"),
        (("pods", "add", "a", "--label", "zone"), "--label: expected NAME=VALUE, got 'zone'"),
        (("pods", "add", "a\nb", "--endpoint", "tcp://10.0.0.1:5557"), "expected 1 to"),
    ],
)
def test_what_a_user_can_mend_is_one_clear_line(arguments: tuple[str, ...], said: str) -> None:
    result = kvatlas(*arguments)
    assert result.exit_code == 2, result.output
    assert said in result.stderr
    assert result.stderr.startswith("kvatlas: ")
    assert result.stderr.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["--version"], ["up", "--check"], ["status", "--help"]])
def test_what_needs_no_ray_does_not_wait_for_it(arguments: list[str]) -> None:
    code = (
        "import sys\n"
        "from kvatlas.cluster.cli import app\n"
        f"app({arguments!r}, standalone_mode=False)\n"
        "assert 'ray' not in sys.modules\n"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr


@pytest.mark.parametrize(
    "command", [["status"], ["down"], ["up"], ["scale", "--shards", "2"], ["pods", "list"]]
)
def test_a_ray_that_is_not_there_is_said_at_once(command: list[str]) -> None:
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        result = kvatlas(*command, "--address", address)
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert result.stderr.startswith(f"kvatlas: Ray: expected it at {address}, got ")


@pytest.mark.parametrize(
    "address", ["auto", "local", "[::1]:1", "ray://127.0.0.1:1", "127.0.0.1:99999", "a:b"]
)
def test_addresses_of_every_form_are_looked_at(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if address in ("auto", "local", "a:b"):
        reach(address)
    else:
        with pytest.raises(ClusterError, match="expected it at"):
            reach(address)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(ClusterError, match="expected it at 127"):
        reach("auto")
