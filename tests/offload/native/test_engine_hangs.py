"""A file system that does not answer: time limits hold, rows are free again, and nothing is written late.

Calls hang at a gate of the preloaded shim, as they would on a mount whose server is gone.
"""

from __future__ import annotations

import os
import select
from pathlib import Path

import numpy as np
import pytest

from kvatlas.offload import _native
from tests.offload.native import faulty_files
from tests.offload.native.engine_rig import WAYS, key_of, names, rig_at, until

pytestmark = pytest.mark.native

GATED = """
gate = folder.with_name("gate")
key, other = key_of(1), key_of(2)
def hangs(call):
    until(folder.with_name(f"gate.{call}").exists)
def answers():
    gate.unlink()
    until(lambda: rig.engine.statistics().hung == 0)
def tell():
    s = rig.engine.statistics()
    put(hung=s.hung, hung_total=s.hung_total, files=sorted(rig.files()), name=chunk_name(key))
from kvatlas.offload._native import chunk_name
"""


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return faulty_files.compile_shim(tmp_path_factory.mktemp("shim"))


def run(shim: Path, tmp_path: Path, code: str, *calls: str) -> dict[str, object]:
    gate = tmp_path / "gate"
    said = faulty_files.run(shim, tmp_path / "part", GATED + code, GATE=str(gate), GATED=",".join(calls))
    assert not gate.exists()
    return said


@pytest.mark.parametrize("way", WAYS)
def test_a_load_beyond_its_time_limit_is_told_without_anybody_asking(tmp_path: Path, way: str) -> None:
    """Opening a pipe waits for a writer."""
    pipe_key, other = key_of(1), key_of(2)
    with rig_at(tmp_path / "part", time_limit_s=1.0, **WAYS[way]) as rig:
        rig.store(other)
        rig.path(pipe_key).parent.mkdir(exist_ok=True)
        os.mkfifo(rig.path(pipe_key))
        job = rig.submit("load", [pipe_key, other], [1, 2])
        assert select.select([rig.engine.event_fd], [], [], 60)[0]
        (finished,) = rig.engine.finished()
        assert finished.job == job and names(finished) == ["TIMED_OUT", "OK"]
        assert "time limit" in finished.error and finished.seconds >= 1.0
        assert rig.engine.statistics().hung == 1
        assert rig.load(other) == "OK"  # by another thread
        writer = os.open(rig.path(pipe_key), os.O_WRONLY | os.O_NONBLOCK)
        until(lambda: rig.engine.statistics().hung == 0)
        os.close(writer)


@pytest.mark.slow
def test_a_load_that_wakes_late_does_not_touch_its_row(shim: Path, tmp_path: Path) -> None:
    said = run(
        shim,
        tmp_path,
        """
rig = Rig(folder, uring=False, time_limit_s=1.0)
rig.store(key)
gate.touch()
rig.rows[1] = 7
put(first=rig.outcomes("load", [key], [1]))
tell()
rig.rows[1] = 8
answers()
put(untouched=bool((rig.rows[1] == 8).all()), later=rig.load(key), closed=rig.close())
""",
        "PREADV",
    )
    assert said["first"] == ["TIMED_OUT"] and said["hung"] == 1
    assert said["untouched"] and said["later"] == "OK" and said["closed"]


@pytest.mark.slow
@pytest.mark.parametrize("call", ["OPEN", "PWRITEV"])
def test_a_store_that_wakes_late_leaves_no_file(shim: Path, tmp_path: Path, call: str) -> None:
    said = run(
        shim,
        tmp_path,
        """
gate.touch()
rig = Rig(folder, uring=False, time_limit_s=1.0)
put(first=rig.outcomes("store", [key], [0]))
rig.rows[0] = 9  # the row is the caller's again: these are not the key's bytes
answers()
tell()
rig.store(key)
put(later=rig.load(key), closed=rig.close())
""",
        call,
    )
    assert said["first"] == ["TIMED_OUT"] and said["files"] == [] and said["hung_total"] == 1
    assert said["later"] == "OK" and said["closed"]


@pytest.mark.slow
def test_a_store_whose_last_step_hung_may_be_there_and_is_then_whole(shim: Path, tmp_path: Path) -> None:
    said = run(
        shim,
        tmp_path,
        """
gate.touch()
rig = Rig(folder, uring=False, time_limit_s=1.0)
rig.rows[0] = content_of(key)
put(first=rig.outcomes("store", [key], [0]))
rig.rows[0] = 9
answers()
tell()
put(later=rig.load(key), closed=rig.close())
""",
        "RENAME",
    )
    assert said["first"] == ["TIMED_OUT"] and said["files"] == [said["name"]]
    assert said["later"] == "OK" and said["closed"]


@pytest.mark.slow
def test_threads_that_hang_in_stores_leave_loads_alone(shim: Path, tmp_path: Path) -> None:
    said = run(
        shim,
        tmp_path,
        """
rig = Rig(folder, uring=False, time_limit_s=30, writers=2)
rig.store(key)
gate.touch()
stores = [rig.submit("store", [key_of(10 + i)], [0]) for i in range(4)]
until(lambda: rig.engine.statistics().writing == 2)
put(load=rig.load(key), waiting=rig.engine.statistics().queued_writes)
gate.unlink()
put(stores=sorted({name for job in rig.collect(4).values() for name in names(job)}), closed=rig.close())
""",
        "PWRITEV",
    )
    assert said == {"load": "OK", "waiting": 2, "stores": ["OK"], "closed": True}


@pytest.mark.slow
def test_closing_gives_up_threads_that_hang_and_lets_go_of_the_memory(shim: Path, tmp_path: Path) -> None:
    said = run(
        shim,
        tmp_path,
        """
gate.touch()
rig = Rig(folder, uring=False, readers=1, writers=1)
rig.submit("store", [key, other], [0, 1])
hangs("PWRITEV")
put(closed=rig.close(0.1))  # also closes the memory, which fails while it is held
(finished,) = rig.engine.finished()
put(outcomes=names(finished), again=rig.engine.close(0))
rig.engine = None  # the thread has what it needs
gate.unlink()
until(lambda: not rig.files())
put(files=sorted(rig.files()))
""",
        "PWRITEV",
    )
    assert said["closed"] is False and said["outcomes"] == ["TIMED_OUT", "CANCELLED"]
    assert said["files"] == [] and said["again"] is False


@pytest.mark.slow
def test_giving_up_ends_all_open_jobs_and_the_engine_goes_on(shim: Path, tmp_path: Path) -> None:
    said = run(
        shim,
        tmp_path,
        """
rig = Rig(folder, uring=False, readers=1, writers=1)
rig.store(key)
gate.touch()
jobs = [rig.submit("load", [key, key], [1, 2]), rig.submit("store", [other], [3])]
hangs("PREADV")
put(drained=rig.engine.drain(0.01))
rig.engine.give_up()
done = rig.collect(2)
put(load=names(done[jobs[0]]), store=names(done[jobs[1]])[0], idle=rig.engine.drain(0))
answers()
put(later=rig.load(key), closed=rig.close())
""",
        "PREADV",
    )
    assert said["drained"] is False and said["idle"] is True
    assert said["load"] == ["TIMED_OUT", "CANCELLED"]
    assert said["store"] in ("CANCELLED", "OK", "TIMED_OUT")
    assert said["later"] == "OK" and said["closed"]


@pytest.mark.slow
def test_what_waits_of_a_job_can_be_cancelled_and_the_rest_goes_on(shim: Path, tmp_path: Path) -> None:
    said = run(
        shim,
        tmp_path,
        """
rig = Rig(folder, uring=False, readers=1)
rig.store(key)
gate.touch()
first, second = rig.submit("load", [key, key], [1, 2]), rig.submit("load", [key], [3])
hangs("PREADV")
put(cancelled=[rig.engine.cancel(job) for job in (first, second, second, 5)])
put(second=names(rig.collect()[second]))
gate.unlink()
put(first=names(rig.collect()[first]), closed=rig.close())
""",
        "PREADV",
    )
    assert said["cancelled"] == [True, True, False, False]
    assert said["first"] == ["OK", "CANCELLED"] and said["second"] == ["CANCELLED"] and said["closed"]


def test_writes_that_waited_for_reads_begin_when_these_are_cancelled(tmp_path: Path) -> None:
    with rig_at(tmp_path / "part", readers=1, writers=1, uring=False) as rig:
        rig.path(key_of(1)).parent.mkdir()
        os.mkfifo(rig.path(key_of(1)))
        rig.submit("load", [key_of(1)], [1])  # hangs
        until(lambda: rig.engine.statistics().reading == 1)
        waiting = rig.submit("load", [key_of(1)], [2])
        store = rig.submit("store", [key_of(2)], [0])
        assert rig.engine.statistics().queued_writes == 1
        assert rig.engine.cancel(waiting)
        assert names(rig.collect(2)[store]) == ["OK"]
        writer = os.open(rig.path(key_of(1)), os.O_WRONLY | os.O_NONBLOCK)
        assert rig.engine.drain(60)
        os.close(writer)


@pytest.mark.slow
@pytest.mark.parametrize(("reads_per_write", "writing"), [(4, 0), (1, 1)])
def test_while_reads_wait_a_write_begins_for_so_many_of_them(
    shim: Path, tmp_path: Path, reads_per_write: int, writing: int
) -> None:
    said = run(
        shim,
        tmp_path,
        f"""
rig = Rig(folder, uring=False, readers=1, writers=1, reads_per_write={reads_per_write})
rig.store(key)
gate.touch()
loads = [rig.submit("load", [key], [1]) for _ in range(8)]
hangs("PREADV")
stores = [rig.submit("store", [key_of(10 + i)], [0]) for i in range(3)]
until(lambda: rig.engine.statistics().writing == {writing})
s = rig.engine.statistics()
put(writing=s.writing, reads=s.queued_reads, writes=s.queued_writes)
gate.unlink()
put(outcomes=sorted({{name for job in rig.collect(11).values() for name in names(job)}}), closed=rig.close())
""",
        "PREADV,PWRITEV",
    )
    assert said == {"writing": writing, "reads": 7, "writes": 3 - writing, "outcomes": ["OK"], "closed": True}


def test_the_number_of_an_open_job_is_refused_and_free_again_when_it_has_ended(tmp_path: Path) -> None:
    with rig_at(tmp_path / "part", readers=1, time_limit_s=1.0) as rig:
        rig.path(key_of(1)).parent.mkdir()
        os.mkfifo(rig.path(key_of(1)))
        row = np.zeros(1, np.int32)
        assert rig.engine.submit_load(5, key_of(1), row)
        with pytest.raises(ValueError, match="got 5"):
            rig.engine.submit_probe(5, key_of(1))
        assert names(rig.collect()[5]) == ["TIMED_OUT"]
        assert rig.engine.submit_store(5, key_of(2), row)
        assert rig.collect()[5].outcomes == bytes([_native.OK])
        writer = os.open(rig.path(key_of(1)), os.O_WRONLY | os.O_NONBLOCK)
        until(lambda: rig.engine.statistics().hung == 0)
        os.close(writer)
