"""The commands `kvatlas offload`, as a user types them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from kvatlas.cluster.cli import app
from kvatlas.offload._native import chunk_name
from kvatlas.offload.capacity.control import ControlFolder
from kvatlas.offload.capacity.pins import read_pins
from kvatlas.offload.layout.space import Space
from tests.cluster.commands.test_evict_command import KVATLAS
from tests.offload.capacity.stores_at_hand import files_of, key_of, make_store, put, put_chunk

PAGE = 4096


def offload(*arguments: object, stdin: str | None = None) -> Result:
    return CliRunner().invoke(app, ("offload", *map(str, arguments)), input=stdin)


@pytest.fixture
def space(tmp_path: Path) -> Space:
    made = make_store(tmp_path / "store")
    for number in range(10):
        put_chunk(made, key_of(number), bytes([number]) * PAGE, age_s=7200.0 * number)
    return made


def path_of(space: Space, number: int) -> Path:
    return space.part_folder / chunk_name(key_of(number))


def test_stat_shows_a_store_to_people_and_to_programs(space: Space) -> None:
    result = offload("stat", space.root)
    assert result.exit_code == 0, result.output
    for said in (
        "files: ",
        "10 files, 80.0 KiB",
        "no crawl yet",
        "nobody evicts",
        space.name[:10],
        "some/model",
    ):
        assert said in result.stdout, said
    told = json.loads(offload("stat", space.root, "--json").stdout)
    assert (told["files"], told["bytes"], told["parts"][0]["model"]) == (10, 10 * 2 * PAGE, "some/model")


def test_verify_of_a_good_store_ends_with_0(space: Space) -> None:
    result = offload("verify", space.root)
    assert (result.exit_code, result.stdout) == (0, "")
    assert "10 files, 80.0 KiB: 0 bad" in result.stderr


def test_verify_names_the_bad_and_removes_them_when_asked(space: Space) -> None:
    os.truncate(path_of(space, 1), 100)
    result = offload("verify", space.root)
    assert result.exit_code == 1 and str(path_of(space, 1)) in result.stdout
    told = offload("verify", space.root, "--json", "--remove")
    assert told.exit_code == 1
    found = json.loads(told.stdout)
    assert (found["files"], found["removed"], [one["path"] for one in found["bad"]]) == (
        10,
        1,
        [str(path_of(space, 1))],
    )
    assert len(files_of(space.root)) == 9 and offload("verify", space.root).exit_code == 0


def test_warm_reads_the_newest_within_its_budget(space: Space) -> None:
    result = offload("warm", space.root, "--bytes", "20KiB", "--json")
    assert json.loads(result.stdout)["files"] == 2
    shown = offload("warm", space.root)
    assert "10 files, 80.0 KiB read; 0 B left out" in shown.stdout


@pytest.mark.slow
def test_pins_of_keys_names_and_whole_spaces(space: Space) -> None:
    control = ControlFolder(space.root)
    names = f"{path_of(space, 2)}\n{path_of(space, 3).name}\n"
    result = offload(
        "pin",
        space.root,
        space.name,
        "--key",
        key_of(1).hex(),
        "--keys-file",
        "-",
        "--note",
        "why",
        stdin=names,
    )
    assert (result.exit_code, result.stdout) == (0, f"{space.name}: 3 pinned\n")
    pins = read_pins(control)
    assert [pins.is_pinned(space.name, key_of(number)) for number in range(5)] == [0, 1, 1, 1, 0]
    assert offload("unpin", space.root, space.name, "--key", path_of(space, 2).name).stdout.endswith(
        "1 unpinned\n"
    )
    assert offload("pin", space.root, space.name).stdout.endswith("all pinned\n")
    assert "whole: " in offload("stat", space.root).stdout
    assert offload("unpin", space.root, space.name).stdout.endswith("3 unpinned\n")
    assert read_pins(control).n_keys == 0


@pytest.mark.parametrize(
    ("arguments", "exit_code", "said"),
    [
        (("stat", "/no/such/store"), 1, "/no/such/store: expected the folder of a store, got none"),
        (("verify", "FOLDER"), 1, "expected a store, got a folder without store.json"),
        (("warm", "STORE", "--bytes", "lots"), 2, "--bytes: expected bytes such as 500GiB"),
        (("pin", "STORE", "nothing"), 2, "space: expected a folder of"),
        (("pin", "STORE", "SPACE", "--key", "zz"), 2, "--key: expected a key in hex, or a chunk file's name"),
        (("pin", "STORE", "SPACE", "--keys-file", "/no/such/file"), 1, "/no/such/file"),
    ],
)
def test_what_a_user_can_mend_is_one_clear_line(
    space: Space, tmp_path: Path, arguments: tuple[str, ...], exit_code: int, said: str
) -> None:
    stands_for = {"STORE": space.root, "SPACE": space.name, "FOLDER": tmp_path}
    result = offload(*(stands_for.get(one, one) for one in arguments))
    assert result.exit_code == exit_code, result.output
    assert said in result.stderr and "Traceback" not in result.output


@pytest.mark.slow
def test_ctrl_c_ends_a_verification_without_a_traceback(space: Space) -> None:
    """It names more bad files than a pipe holds: it is at work when it is interrupted."""
    for number in range(1000, 4000):
        put(space.part_folder, key_of(number), 1)
    process = subprocess.Popen(
        [KVATLAS, "offload", "verify", space.root, "--threads", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.SIG_DFL
        ),  # as from a terminal: a job in the background ignores it
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "interrupted" in said
    assert "Traceback" not in said
