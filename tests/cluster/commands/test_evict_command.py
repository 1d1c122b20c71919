"""The command `kvatlas evict`, as a user types it."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from kvatlas.cluster.cli import app
from kvatlas.offload.layout.space import Space
from tests.offload.capacity.stores_at_hand import files_of, key_of, make_store, put, wait_until

KB = 1024
KVATLAS = Path(sys.executable).with_name("kvatlas")


def kvatlas(*arguments: object) -> Result:
    return CliRunner().invoke(app, tuple(map(str, arguments)))


@pytest.fixture
def space(tmp_path: Path) -> Space:
    made = make_store(tmp_path / "store")
    for number in range(100):
        put(made.part_folder, key_of(number), 4 * KB, age_s=10_000.0 - number)
    return made


@pytest.mark.slow
def test_a_dry_run_says_what_would_go_and_deletes_nothing(space: Space) -> None:
    result = kvatlas("evict", space.root, "--capacity", "200KiB", "--low", "0.5", "--dry-run")
    assert result.exit_code == 0, result.output
    assert "400 KiB in 100 files, of 200 KiB; 75 would go, 300 KiB" in result.stdout
    assert "and 55 more: --json shows all" in result.stdout
    told = json.loads(kvatlas("evict", space.root, "--capacity", "200KiB", "--dry-run", "--json").stdout)
    assert len(told[0]["would_delete"]) == 58 and told[0]["used_bytes"] == 400 * KB
    assert len(files_of(space.root)) == 100


def test_once_evicts_and_ends(space: Space) -> None:
    result = kvatlas("evict", space.root, "--capacity", "200 KiB", "--low", "0.5", "--once")
    assert (result.exit_code, result.stdout) == (
        0,
        f"{space.root}: 300 KiB evicted, 100 KiB of 200 KiB\n",
    )
    assert len(files_of(space.root)) == 25


def test_once_ends_with_1_where_all_is_in_use(space: Space) -> None:
    result = kvatlas("evict", space.root, "--capacity", "200KiB", "--lease", "20000", "--once", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)[0]["evicted_bytes"] == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "exit_code", "said"),
    [
        (("--capacity", "1GiB"), 2, "expected the folder of a store, or --config, got neither"),
        (("/no/such/folder", "--capacity", "1GiB"), 1, "/no/such/folder: expected the folder of a store"),
        (("STORE",), 2, "expected capacity_bytes, free_bytes_min, or both"),
        (("STORE", "--capacity", "much"), 2, "--capacity: expected bytes such as 500GiB, got 'much'"),
        (("STORE", "--capacity", "1GiB", "--low", "0.97"), 2, "low_share: expected 0 to 0.95"),
        (("STORE", "--capacity", "1GiB", "--listen", "here"), 2, "--listen: expected HOST:PORT"),
        (("STORE", "--config", "x.yaml"), 2, "expected folders, or --config, got both"),
        (("--config", "/no/such.yaml"), 1, "/no/such.yaml"),
        (
            ("--config", "x.yaml", "--capacity", "1GiB"),
            2,
            "expected limits in --config, or as options, got --capacity",
        ),
        (("--config", "x.yaml", "--lease", "60"), 2, "got --lease beside it"),
    ],
)
def test_what_a_user_can_mend_is_one_clear_line(
    space: Space, arguments: tuple[str, ...], exit_code: int, said: str
) -> None:
    result = kvatlas("evict", *(str(space.root) if one == "STORE" else one for one in arguments))
    assert result.exit_code == exit_code, result.output
    assert said in result.stderr and result.stderr.count("\n") == 1 and "Traceback" not in result.output


def test_a_configuration_names_several_stores(space: Space, tmp_path: Path) -> None:
    other = make_store(tmp_path / "other")
    config = tmp_path / "evict.yaml"
    stores = [
        {"root": str(space.root), "limits": {"capacity_bytes": 200 * KB, "low_share": 0.5}},
        {"root": str(other.root), "limits": {"free_bytes_min": 4096}},
    ]
    config.write_text(json.dumps({"stores": stores}))
    told = json.loads(kvatlas("evict", "--config", config, "--once", "--json").stdout)
    assert [(one["root"], one["evicted_bytes"]) for one in told] == [
        (str(space.root), 300 * KB),
        (str(other.root), 0),
    ]
    stores[0]["limits"] = {"capacity_byte": 1}
    config.write_text(json.dumps({"stores": stores}))
    result = kvatlas("evict", "--config", config)
    assert result.exit_code == 2
    assert "$.stores[0].limits.capacity_byte: expected a known key, perhaps capacity_bytes" in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_until_it_is_told_to_stop_and_gives_its_lease_back(space: Space, ending: int) -> None:
    process = subprocess.Popen(
        [
            str(KVATLAS),
            "evict",
            str(space.root),
            "--capacity",
            "200KiB",
            "--low",
            "0.5",
            "--log-json",
            "--listen",
            "127.0.0.1:0",
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        lines = []
        while not (line := process.stderr.readline()).startswith("listens at "):
            lines.append(line)
        url = line.split()[-1]
        wait_until(lambda: len(files_of(space.root)) == 25, "it evicts")
        with urllib.request.urlopen(f"{url}/healthz", timeout=60) as answer:
            assert answer.status == 200
        with urllib.request.urlopen(f"{url}/metrics", timeout=60) as answer:
            assert b"kvatlas_evict_evicted_bytes_total" in answer.read()
        process.send_signal(ending)
        rest = process.stderr.read()
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
    events = [json.loads(one) for one in [*lines, *rest.splitlines()]]
    evicted = [one for one in events if one["event"] == "evicted"]
    assert sum(one["files"] for one in evicted) == 75
    assert not (space.root / "control" / "evictor.lease").exists()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("unshare") is None, reason="no unshare here")
def test_a_store_that_is_mounted_read_only_is_one_clear_error(space: Space) -> None:
    script = f"mount --bind {space.root} {space.root} && mount -o remount,bind,ro {space.root} && exec "
    command = ["unshare", "--mount", "sh", "-c"]
    if subprocess.run([*command, script + "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount")

    def run(arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, f"{script}{KVATLAS} {arguments}"], capture_output=True, text=True, check=False
        )

    evicted = run(f"evict {space.root} --capacity 200KiB --once")
    assert evicted.returncode == 1 and "Read-only file system" in evicted.stderr
    assert evicted.stderr.count("\n") == 1
    planned = run(f"evict {space.root} --capacity 200KiB --dry-run")
    assert planned.returncode == 0 and "by this host's clock" in planned.stdout
    surveyed = run(f"offload stat {space.root} --json")
    assert json.loads(surveyed.stdout)["files"] == 100
    assert len(files_of(space.root)) == 100
