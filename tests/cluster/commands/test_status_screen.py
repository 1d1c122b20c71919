"""What `kvatlas status` shows."""

from __future__ import annotations

import io

import msgspec
import pytest
from rich.console import Console

from kvatlas.actors.directory.status import (
    ClusterStatus,
    LayoutStatus,
    NodeStatus,
    PodStatus,
    RouterStatus,
    ShardStatus,
    SubscriberStatus,
    TokenizerStatus,
)
from kvatlas.cluster.commands.cluster_commands import is_settled, told
from kvatlas.cluster.commands.status_screen import status_view
from kvatlas.index.view import WorkerView

SERVING = LayoutStatus(number=3, n_shards=2, state="serving", n_slots=2, n_up=2, n_whole=1, age_s=61.0)
BUILDING = msgspec.structs.replace(SERVING, number=4, n_shards=4, state="building", n_slots=4, n_whole=0)


def shard(number: int, *, is_up: bool = True, whole: bool = True, layout: int = 3) -> ShardStatus:
    return ShardStatus(
        layout=layout,
        shard=number,
        replica=0,
        node_id="a" * 56,
        incarnation=7,
        is_up=is_up,
        whole=whole,
        bytes=3 << 20,
        entries=12_345,
        silent_s=0.2,
        counts={},
    )


def subscriber(name: str, *, lost: bool = False, is_used: bool = True) -> SubscriberStatus:
    return SubscriberStatus(
        name=name,
        session=5,
        node_id="b" * 56,
        is_used=is_used,
        lost=lost,
        settled=False,
        n_pods=16,
        n_workers=17,
        n_lanes=256,
        loaded=2,
        bytes=0,
        silent_s=4.5,
        counts={},
    )


STATUS = ClusterStatus(
    cluster="production",
    view_version=41,
    directory_age_s=3600.0,
    desired_shards=4,
    desired_replicas_per_node=0,
    off_nodes=("b" * 56,),
    building_waits_for="2 of 4 processes",
    nodes=(
        NodeStatus(node_id="a" * 56, address="10.0.0.1"),
        NodeStatus(node_id="b" * 56, address="10.0.0.2"),
    ),
    layouts=(SERVING, BUILDING),
    shards=(shard(0), shard(1, whole=False), shard(0, is_up=False, whole=False, layout=4)),
    subscribers=(subscriber("0"), subscriber("1", lost=True), subscriber("1", is_used=False)),
    scorers=(),
    pods=(
        PodStatus(pod="pod-a", model="m", subscriber="0", state="following", why="", found_by="static"),
        PodStatus(pod="pod-b", model="m", subscriber="", state="held", why="came 5 times", found_by="http"),
    ),
    counts={"pods_refused": 2, "nothing": 0},
    lanes_free=60_000,
    workers_free=1_000,
)
WORKERS = (
    WorkerView(number=1, pod="pod-a", rank=0, model="m", state="EXACT"),
    WorkerView(number=2, pod="pod-z", rank=1, model="m", state="DEGRADED", doubts=("gap: 3 batches",)),
)


def shown(status: ClusterStatus, workers: tuple[WorkerView, ...] = WORKERS, width: int = 120) -> str:
    console = Console(file=io.StringIO(), width=width, record=True)
    console.print(status_view(status, workers))
    return console.export_text()


def line_with(text: str, *words: str) -> str:
    (line,) = [line for line in text.splitlines() if all(word in line for word in words)]
    return line


def test_everything_that_matters_is_on_the_screen() -> None:
    text = shown(STATUS)
    for words in (
        ("kvatlas production",),
        ("layout 3, serving", "2 of 2 processes up, 1 whole"),
        ("layout 4, building", "4 shards"),
        ("the next layout waits for 2 of 4 processes",),
        ("shards leave 10.0.0.2",),
        ("workers: 1 DEGRADED, 1 EXACT",),
        ("view 41", "60.0 k lanes free"),
        ("counted: pods_refused 2",),
        ("10.0.0.1 (aaaaaaaa)", "whole", "12.3 k", "3.00 MiB"),
        ("10.0.0.1", "loading"),
        ("10.0.0.1", "not up"),
        ("10.0.0.2", "feeding", "16"),
        ("lost",),
        ("settling",),
        ("pod-z", "DEGRADED", "gap: 3 batches"),
        ("pod-b", "held", "came 5 times", "http"),
    ):
        line_with(text, *words)
    assert "nothing" not in text


def test_routers_are_shown_with_what_they_hold_and_whether_they_are_heard() -> None:
    router = RouterStatus(
        number=5,
        node_id="b" * 56,
        process=4711,
        endpoint="tcp://h:1",
        requests=1_234,
        peers=7,
        silent_s=0.5,
        counts={},
    )
    alone = msgspec.structs.replace(router, process=4712, endpoint="", peers=0)
    text = shown(msgspec.structs.replace(STATUS, routers=(router, alone)))
    line_with(text, "10.0.0.2", "4711", "1234", "7")
    line_with(text, "4712", "shares no loads")
    line_with(text, "2 routers")


def test_workers_in_doubt_come_first() -> None:
    text = shown(STATUS)
    assert text.index("pod-z") < text.index("pod-a ")


def test_a_fleet_of_thousands_fits_the_screen_and_says_what_is_left_out() -> None:
    many = tuple(WorkerView(number=n, pod=f"pod-{n}", rank=0, model="m") for n in range(5000))
    text = shown(STATUS, many)
    assert len(text.splitlines()) < 100
    assert "and 4960 more" in text


@pytest.mark.parametrize("width", [40, 80, 200])
def test_hostile_names_do_not_break_the_screen(width: int) -> None:
    hostile = WorkerView(number=3, pod="[bold]x[/nope]" * 30, rank=0, model="[red]", doubts=("[/]",) * 5)
    pod = PodStatus(pod="[/x]", model="[", subscriber="", state="refused", why="[/why]", found_by="[/found]")
    status = msgspec.structs.replace(STATUS, pods=(pod,), counts={"[/c]": 1}, building_waits_for="[/w]")
    text = shown(status, (hostile,), width)
    assert max(map(len, text.splitlines())) <= width


def test_names_that_steer_a_terminal_are_shown_and_not_sent() -> None:
    pod = PodStatus(
        pod="a\x1b]0;x\x07", state="held", why="\x9b2J", found_by="\u202e", model=None, subscriber=""
    )
    worker = WorkerView(number=1, pod="b\x1b[2J", rank=0, model="m\r", state="BLIND", doubts=("\x1b[31m",))
    text = shown(msgspec.structs.replace(STATUS, pods=(pod,)), (worker,))
    assert all(letter.isprintable() or letter == "\n" for letter in text), ascii(text)
    assert "a\\x1b]0;x\\x07" in text
    assert "b\\x1b[2J" in text


def test_a_cluster_in_a_line() -> None:
    assert told(STATUS) == (
        "layout 3 serving: 2 of 2 processes up, 1 whole, layout 4 building: 2 of 4 processes up, 0 whole; "
        "waits for 2 of 4 processes"
    )
    assert told(msgspec.structs.replace(STATUS, layouts=(), building_waits_for="")) == "no layout yet"


def test_a_cluster_is_settled_when_nothing_is_being_built() -> None:
    quiet = msgspec.structs.replace(STATUS, building_waits_for="", layouts=(SERVING,))
    leaving = msgspec.structs.replace(SERVING, state="leaving")
    assert is_settled(quiet)
    assert is_settled(msgspec.structs.replace(quiet, layouts=(SERVING, leaving)))
    assert not is_settled(STATUS)
    assert not is_settled(msgspec.structs.replace(quiet, layouts=(SERVING, BUILDING)))
    assert not is_settled(msgspec.structs.replace(quiet, building_waits_for="a node"))


def test_tokenizers_are_shown_where_there_is_a_pool() -> None:
    assert "refused  silent" not in shown(STATUS)
    up = TokenizerStatus(
        number=0,
        name="production/tokenizer/0",
        node_id="a" * 56,
        is_up=True,
        threads=4,
        waiting=17,
        busy_share=0.83,
        bytes=1 << 20,
        models=2,
        silent_s=0.4,
        counts={"done": 5, "refused": 12_000},
    )
    down = msgspec.structs.replace(up, number=1, node_id="", is_up=False, counts={})
    text = shown(msgspec.structs.replace(STATUS, tokenizers=(up, down)))
    assert "refused  silent" in text
    assert "2 tokenizers" in text
    assert line_with(text, "83%", "up", "10.0.0.1").split()[-6:] == ["17", "2", "12.0", "k", "400", "ms"]
    assert line_with(text, "not up", "no node").split()[-3:] == ["0", "400", "ms"]
