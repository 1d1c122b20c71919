"""Dumps compared and searched by the command line; no cluster."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from kvatlas.cluster.cli import app
from kvatlas.index._native import Table, snapshot
from kvatlas.index.dumps.dump_file import write_dump
from kvatlas.index.dumps.meta import DumpMeta, keyspaces_of
from kvatlas.index.groups import Group
from kvatlas.index.view import FleetPart, WorkerView
from tests.models.table import ADD, Record, delta

GPU, STORAGE = 1, 8


def kvatlas(*arguments: str) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def part(first_lane: int) -> FleetPart:
    """Pods a and b, and a store; the same names in other lanes."""
    workers = tuple(
        WorkerView(number=at, pod=pod, rank=0, model="m", groups=(Group(first_lane + at),), stores=("nfs",))
        for at, pod in enumerate("ab")
    )
    return FleetPart(block_sizes={"m": 16}, workers=workers, stores={"nfs": first_lane + 2})


def dump(path: Path, *held: tuple[int, int, tuple[int, ...]], first_lane: int = 0, seed: str = "s") -> str:
    """`held`: place of the holder, tier, keys."""
    table = Table(budget_bytes=16 << 20)
    table.apply(delta([Record(ADD, first_lane + at, tier, keys) for at, tier, keys in held]))
    parts = (part(first_lane),)
    meta = DumpMeta(created_s=1.0, cluster="c", keyspaces=keyspaces_of(parts, "fold64", seed), parts=parts)
    write_dump(path, meta, snapshot([table])[0].sections())
    return str(path)


BOTH = ((0, GPU, (1, 2, 3)), (1, GPU, (1,)), (2, STORAGE, (3, 4)))


@pytest.fixture
def one(tmp_path: Path) -> str:
    return dump(tmp_path / "one", *BOTH)


def test_dumps_that_hold_the_same_under_other_lanes_are_the_same(tmp_path: Path, one: str) -> None:
    result = kvatlas("diff", one, dump(tmp_path / "two", *BOTH, first_lane=70))
    assert (result.exit_code, result.stdout) == (0, "the same: 6 blocks of 2 workers and 1 store\n")


def test_what_differs_is_told_by_holder_and_tier(tmp_path: Path, one: str) -> None:
    two = dump(tmp_path / "two", (0, GPU, (1, 2, 9, 10)), (1, GPU, (1,)), (2, GPU, (3,)))
    result = kvatlas("diff", one, two)
    assert result.exit_code == 1
    lines = [line.split() for line in result.stdout.splitlines()]
    assert result.stdout.replace("\n", " ").startswith("3 blocks only in ")
    assert ["held", "by", "model", "tier", "only", "left", "only", "right", "in", "both"] in lines
    assert ["a", "m", "gpu", "1", "2", "2"] in lines
    assert ["store", "nfs", "storage", "2", "0", "0"] in lines
    assert ["store", "nfs", "gpu", "0", "1", "0"] in lines


def test_differences_as_json_are_bounded_and_say_how_many_there_are(tmp_path: Path, one: str) -> None:
    two = dump(tmp_path / "two")
    told = json.loads(kvatlas("diff", one, two, "--json", "--rows", "1").stdout)
    assert (told["same"], told["only_left"], told["only_right"], told["both"]) == (False, 6, 0, 0)
    assert told["rows_total"] == 3
    [row] = told["rows"]
    assert row == {
        "model": "m",
        "pod": "a",
        "rank": 0,
        "group": 0,
        "tier": "gpu",
        "only_left": 3,
        "only_right": 0,
        "both": 0,
    }


def test_dumps_of_other_keys_cannot_be_compared(tmp_path: Path, one: str) -> None:
    result = kvatlas("diff", one, dump(tmp_path / "two", *BOTH, seed="another"))
    assert result.exit_code == 1
    assert result.stderr.startswith(f"kvatlas: {one}, model 'm': expected block keys of this hash_seed")


@pytest.mark.slow
def test_blocks_are_found_by_holder_tier_and_key(one: str) -> None:
    found = json.loads(kvatlas("grep", one, "--key", "3", "--json").stdout)
    assert found["total"] == 2
    assert [row.get("pod", row.get("store")) for row in found["rows"]] == ["a", "nfs"]
    assert {row["key"] for row in found["rows"]} == {"0x0000000000000003"}
    assert json.loads(kvatlas("grep", one, "--pod", "a", "--json").stdout)["total"] == 3
    assert json.loads(kvatlas("grep", one, "--store", "nfs", "--json").stdout)["total"] == 2
    assert json.loads(kvatlas("grep", one, "--tier", "gpu", "--model", "m", "--json").stdout)["total"] == 4


def test_what_is_found_is_shown_up_to_the_rows_asked_for(one: str) -> None:
    shown = kvatlas("grep", one, "--pod", "a", "--rows", "2").stdout
    assert shown.startswith("3 blocks held")
    assert shown.count("0x000000000000000") == 2
    assert "and 1 more: --rows shows more" in shown


def test_nothing_found_is_said_and_is_the_exit_code(one: str) -> None:
    result = kvatlas("grep", one, "--pod", "nobody")
    assert (result.exit_code, result.stdout) == (1, "nothing found\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("diff", "ONE"), "diff: expected two dumps, or a dump and --live"),
        (("diff", "ONE", "ONE", "--live"), "diff: expected two dumps, or a dump and --live"),
        (("grep",), "grep: expected a dump or --live, one of the two"),
        (("grep", "ONE", "--live"), "grep: expected a dump or --live, one of the two"),
        (("grep", "ONE", "--key", "zz"), "key: expected a number of 64 bits, as 0x1f or decimal, got 'zz'"),
        (("grep", "ONE", "--key", str(1 << 64)), "key: expected a number of 64 bits"),
        (("grep", "ONE", "--tier", "tape"), "tier: expected one of gpu, cpu"),
        (("grep", "ONE", "--pod", ""), "grep: expected a name, got an empty one"),
        (("load",), "load: expected a dump or --drop, one of the two"),
        (("load", "ONE", "--drop"), "load: expected a dump or --drop, one of the two"),
    ],
)
def test_options_that_do_not_fit_are_one_line(arguments: tuple[str, ...], says: str, one: str) -> None:
    result = kvatlas(*(one if argument == "ONE" else argument for argument in arguments))
    assert result.exit_code == 2
    assert result.stderr.startswith(f"kvatlas: {says}")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("command", ["diff", "grep"])
def test_file_that_is_no_dump_is_one_line(tmp_path: Path, command: str, one: str) -> None:
    foreign = tmp_path / "foreign"
    foreign.write_bytes(b"something else" * 10)
    result = kvatlas(command, str(foreign), *((one,) if command == "diff" else ()))
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert result.stderr.startswith(f"kvatlas: {foreign}, byte 0: expected a dump")
    missing = kvatlas(command, str(tmp_path / "missing"), *((one,) if command == "diff" else ()))
    assert (missing.exit_code, missing.stderr.count("\n")) == (1, 1)
