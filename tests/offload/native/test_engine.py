"""The I/O engine: rows to files and back, beside a reader of the format in plain Python."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from kvatlas.index.errors import InputError
from kvatlas.offload import _native
from kvatlas.offload.layout.reading import read_chunk
from tests.offload.native.engine_rig import (
    FINGERPRINT,
    KEY_BYTES,
    OUTCOMES,
    WAYS,
    WRITER,
    Rig,
    content_of,
    key_of,
    names,
    rig_at,
)
from tests.offload.storing.files_at_hand import wait_for

pytestmark = pytest.mark.native


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> dict[str, object]:
    return dict(WAYS[request.param])


@pytest.mark.parametrize("row_bytes", [4096, 32768, 5000, 1])
def test_what_was_stored_is_loaded_by_this_engine_and_by_another(
    tmp_path: Path, way: dict[str, object], row_bytes: int
) -> None:
    keys = [key_of(i) for i in range(8)]
    with rig_at(tmp_path / "part", row_bytes=row_bytes, **way) as rig:
        for i, key in enumerate(keys):
            rig.rows[i] = content_of(key, row_bytes)
        assert rig.outcomes("store", keys, range(8)) == ["OK"] * 8
        assert rig.engine.statistics().stages_stores == (row_bytes % 4096 != 0)
        assert rig.outcomes("load", keys, range(8, 16)) == ["OK"] * 8
        assert (rig.rows[:8] == rig.rows[8:]).all()
    with rig_at(tmp_path / "part", row_bytes=row_bytes, **way) as other:
        assert [other.load(key) for key in keys] == ["OK"] * 8


def test_files_are_what_a_plain_reader_of_the_format_expects(tmp_path: Path, way: dict[str, object]) -> None:
    key = key_of(1)
    with rig_at(tmp_path / "part", row_bytes=5000, blocks=4, **way) as rig:
        rig.store(key)
        head, payload = read_chunk(rig.path(key), key=key, fingerprint=FINGERPRINT, payload_bytes=5000)
        assert payload == content_of(key, 5000).tobytes()
        assert (head.blocks, head.valid_blocks, head.writer) == (4, 4, WRITER)
        assert rig.path(key).stat().st_size == _native.file_bytes(5000)


def test_the_way_that_was_asked_for_is_taken_and_told(tmp_path: Path, way: dict[str, object]) -> None:
    with rig_at(tmp_path / "part", **way) as rig:
        rig.store(key_of(1))
        told = rig.engine.statistics()
        assert told.is_uring in (way["uring"], False)  # the kernel may refuse a ring
        assert told.is_direct == (way["direct"] and told.direct_refusals == 0)
        assert told.threads == (2 if told.is_uring else 4)


def test_each_kind_of_job_tells_an_outcome_for_each_key(tmp_path: Path, way: dict[str, object]) -> None:
    there, absent = key_of(1), key_of(2)
    with rig_at(tmp_path / "part", **way) as rig:
        rig.store(there)
        assert rig.outcomes("store", [there], [0]) == ["PRESENT"]
        assert rig.outcomes("load", [absent, there, absent], [2, 3, 4]) == ["ABSENT", "OK", "ABSENT"]
        assert rig.outcomes("probe", [there, absent]) == ["OK", "ABSENT"]
        assert rig.outcomes("remove", [absent, there]) == ["ABSENT", "OK"]
        assert rig.outcomes("probe", [there]) == ["ABSENT"]
        assert not rig.files()
        counted = rig.engine.statistics()
        assert counted.jobs == {"store": 2, "load": 1, "probe": 2, "remove": 1}
        assert counted.outcomes["load"]["ok"] == 1 and counted.outcomes["load"]["absent"] == 2
        assert counted.stored_bytes == counted.loaded_bytes == rig.rows.shape[1]


def test_a_job_tells_what_it_moved_and_no_error_where_there_was_none(tmp_path: Path) -> None:
    with rig_at(tmp_path / "part") as rig:
        job = rig.submit("store", [key_of(1), key_of(2), key_of(1)], [0, 1, 0])
        finished = rig.collect()[job]
        assert sorted(names(finished)) in (["OK", "OK", "OK"], ["OK", "OK", "PRESENT"])
        assert finished.n_bytes == names(finished).count("OK") * rig.rows.shape[1]
        assert finished.seconds > 0 and finished.error_number == 0 and finished.error == ""


def test_a_job_of_no_keys_is_finished_at_once(tmp_path: Path) -> None:
    with rig_at(tmp_path / "part") as rig:
        assert [rig.outcomes(kind, []) for kind in ("store", "load", "probe", "remove")] == [[], [], [], []]


def test_the_event_descriptor_is_readable_until_what_has_finished_is_collected(tmp_path: Path) -> None:
    with rig_at(tmp_path / "part") as rig:
        assert not select.select([rig.engine.event_fd], [], [], 0)[0]
        for i in range(3):
            rig.submit("probe", [key_of(i)])
        assert rig.engine.drain(60)
        assert select.select([rig.engine.event_fd], [], [], 0)[0]
        assert len(rig.engine.finished()) == 3
        assert not select.select([rig.engine.event_fd], [], [], 0)[0]
        assert rig.engine.finished() == []


def test_folders_of_files_are_made_when_they_are_missing_and_the_part_is_not(tmp_path: Path) -> None:
    with rig_at(tmp_path / "part") as rig:
        rig.store(key_of(1))
        rig.path(key_of(1)).unlink()
        rig.path(key_of(1)).parent.rmdir()  # as a cleaner of empty folders does
        rig.store(key_of(1))
        rig.path(key_of(1)).unlink()
        rig.path(key_of(1)).parent.rmdir()
        (tmp_path / "part").rmdir()  # as an unmounted store
        job = rig.submit("store", [key_of(1)], [0])
        finished = rig.collect()[job]
        assert (
            names(finished) == ["FAILED"] and "No such file" in finished.error and "create " in finished.error
        )
        assert rig.load(key_of(1)) == "ABSENT"
        assert not (tmp_path / "part").exists()


def test_no_room_in_the_queue_takes_nothing_until_jobs_are_collected(tmp_path: Path) -> None:
    with rig_at(tmp_path / "part", queued_max=4) as rig:
        keys = b"".join(key_of(i) for i in range(3))
        rows = np.arange(3, dtype=np.int32)
        assert rig.engine.submit_load(1, keys, rows)
        assert rig.engine.drain(60)
        assert not rig.engine.submit_load(2, keys, rows)  # the first has ended, but nobody has heard of it
        assert rig.engine.submit_store(3, keys, rows)  # writes have their own room
        assert rig.engine.drain(60)
        assert len(rig.engine.finished()) == 2
        assert rig.engine.submit_load(2, keys, rows)
        assert rig.engine.statistics().refused_chunks == 3


@pytest.mark.parametrize("staging_bytes", [1, 3 * 32768])
def test_little_staging_makes_loads_wait_and_loses_none(
    tmp_path: Path, way: dict[str, object], staging_bytes: int
) -> None:
    with rig_at(tmp_path / "part", staging_bytes=staging_bytes, readers=8, ring_depth=8, **way) as rig:
        keys = [key_of(i) for i in range(16)]
        rig.store(*keys)
        assert rig.outcomes("load", keys, range(16)) == ["OK"] * 16
        assert all((rig.rows[i] == content_of(key)).all() for i, key in enumerate(keys))
        told = rig.engine.statistics()
        assert told.staging_bytes == told.staging_free_bytes == max(staging_bytes, 32768)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"fingerprint": b"short"}, "fingerprint's length"),
        ({"writer": b"short"}, "writer's length"),
        ({"row_bytes": 0}, "row_bytes"),
        ({"row_bytes": 8193}, "row_bytes from 1 to 8192"),
        ({"key_bytes": 4}, "key_bytes"),
        ({"readers": 0}, "readers"),
        ({"writers": 100000}, "writers"),
        ({"queued_max": 0}, "queued_max"),
        ({"time_limit_s": 0.0}, "time_limit_s"),
        ({"time_limit_s": float("nan")}, "time_limit_s"),
        ({"folder": ""}, "folder"),
        ({"memory": bytes(8192)}, "writable"),
        ({"memory": 5}, "memory"),
    ],
)
def test_an_option_out_of_range_is_refused_by_name(
    tmp_path: Path, change: dict[str, object], said: str
) -> None:
    options: dict[str, object] = {
        "memory": bytearray(8192),
        "row_bytes": 4096,
        "folder": str(tmp_path),
        "fingerprint": FINGERPRINT,
        "writer": WRITER,
        "key_bytes": KEY_BYTES,
        **change,
    }
    with pytest.raises(InputError, match=said):
        _native.Engine(**options)  # type: ignore[arg-type]


def test_a_job_that_cannot_be_is_refused_by_name(tmp_path: Path) -> None:
    with rig_at(tmp_path / "part") as rig:
        submit, key = rig.engine.submit_load, key_of(1)
        for keys, rows, said in [
            (key[:-1], np.zeros(0, np.int32), "multiple of 36 bytes, got 35"),
            (key, np.zeros(0, np.int32), "expected 1 of them, got 0"),
            (key, np.array([16], np.int32), r"rows\[0\]: expected a row from 0 to 15, got 16"),
            (key, np.array([-1], np.int32), "got -1"),
            (key, np.zeros(1, np.int64), "int32"),
        ]:
            with pytest.raises(InputError, match=said):
                submit(1, keys, rows)  # type: ignore[arg-type]
        assert rig.engine.statistics().jobs["load"] == 0


def test_closing_lets_go_of_the_memory_and_takes_no_more_jobs(tmp_path: Path, way: dict[str, object]) -> None:
    rig = Rig(tmp_path / "part", **way)  # type: ignore[arg-type]
    jobs = [rig.submit("store", [key_of(i)], [0]) for i in range(50)]
    assert rig.engine.close(60) and rig.engine.close(60)
    finished = {job.job: names(job)[0] for job in rig.engine.finished()}
    assert sorted(finished) == jobs and set(finished.values()) <= {"OK", "CANCELLED"}
    assert len(rig.files()) == sum(outcome == "OK" for outcome in finished.values())
    assert not rig.engine.submit_probe(1, key_of(1))
    assert rig.engine.statistics().threads == 0
    assert rig.close()


def test_an_engine_that_nobody_closed_closes_itself(tmp_path: Path) -> None:
    code = f"""
import numpy as np
from tests.offload.native.engine_rig import Rig, key_of
from pathlib import Path
rig = Rig(Path({str(tmp_path / "part")!r}))
for i in range(100):
    rig.submit("store", [key_of(i)], [0])
print("done")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "done\n" and done.stderr == ""
    assert not list((tmp_path / "part").rglob("*.tmp"))


@pytest.mark.slow
def test_a_forked_child_leaves_the_engine_of_its_parent_alone(tmp_path: Path) -> None:
    code = f"""
import os, sys
from tests.offload.native.engine_rig import Rig, key_of
from pathlib import Path
rig = Rig(Path({str(tmp_path / "part")!r}))
rig.store(key_of(1))
child = os.fork()
if child == 0:
    assert not rig.engine.close(60)
    os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
rig.store(key_of(2))
assert rig.close()
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], timeout=60, check=True)


@pytest.mark.slow
def test_many_threads_may_use_one_engine(tmp_path: Path, way: dict[str, object]) -> None:
    with rig_at(tmp_path / "part", n_rows=32, row_bytes=4096, **way) as rig:
        problems: list[object] = []
        ended: dict[int, list[str]] = {}

        def work(own: int) -> None:
            try:
                for i in range(40):
                    job, row, key = own * 1000 + i, own * 8 + i % 8, key_of(i % 5)
                    if i % 2 == 0:
                        rig.rows[row] = content_of(key, 4096)
                    submit = rig.engine.submit_store if i % 2 == 0 else rig.engine.submit_load
                    assert submit(job, key, np.array([row], np.int32))
                    rig.engine.cancel(job - 3)
                    while job not in ended:
                        ended.update({one.job: names(one) for one in rig.engine.finished()})
                    if i % 2 == 1 and ended[job] == ["OK"]:
                        assert (rig.rows[row] == content_of(key, 4096)).all()
                    rig.engine.statistics()
            except BaseException as error:
                problems.append(error)

        threads = [threading.Thread(target=work, args=(own,)) for own in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert problems == []
        assert len(ended) == 160 and {outcome for one in ended.values() for outcome in one} <= {
            "OK",
            "PRESENT",
            "ABSENT",
        }


def test_outcomes_have_the_numbers_that_the_module_tells() -> None:
    assert [getattr(_native, name) for name in OUTCOMES] == list(range(9))


def test_threads_stay_on_the_processors_of_the_node_where_it_can_be_told(tmp_path: Path) -> None:
    mine = os.sched_getaffinity(0)
    with rig_at(tmp_path / "part", numa_node=0) as rig:
        rig.store(key_of(1))
        assert rig.engine.statistics().is_pinned == bool(mine & set(_native.cpus_of_node(0)))
    with rig_at(tmp_path / "part", numa_node=4000) as rig:  # no such node: goes on without
        assert rig.load(key_of(1)) == "OK"
        assert not rig.engine.statistics().is_pinned
    assert os.sched_getaffinity(0) == mine


def test_the_node_of_a_device_and_its_processors_are_read_from_sysfs(tmp_path: Path) -> None:
    device = tmp_path / "bus/pci/devices/0000:3b:00.0"
    node = tmp_path / "devices/system/node/node1"
    for folder in (device, node):
        folder.mkdir(parents=True)
    (device / "numa_node").write_text("1\n")
    (node / "cpulist").write_text("0-2,8,10-11\n")
    sysfs = str(tmp_path)
    assert _native.numa_node_of_pci("0000:3B:00.0", sysfs=sysfs) == 1
    assert _native.cpus_of_node(1, sysfs=sysfs) == [0, 1, 2, 8, 10, 11]
    assert _native.numa_node_of_pci("0000:3c:00.0", sysfs=sysfs) == -1
    assert _native.numa_node_of_pci("../../../devices", sysfs=sysfs) == -1
    assert _native.cpus_of_node(2, sysfs=sysfs) == [] and _native.cpus_of_node(-1, sysfs=sysfs) == []
    for text in ("", "x", "1-", "3,-4", "1;2"):
        (node / "cpulist").write_text(text)
        assert _native.cpus_of_node(1, sysfs=sysfs) == [], text


def test_its_threads_do_not_take_the_processor_from_the_thread_that_wakes_them(tmp_path: Path) -> None:
    def policies() -> set[int]:
        tasks = [task for task in Path("/proc/self/task").iterdir() if task.name not in before]
        ours = [int(task.name) for task in tasks if (task / "comm").read_text() == "kvatlas-io\n"]
        return {os.sched_getscheduler(thread) for thread in ours}

    before = set(os.listdir("/proc/self/task"))
    with rig_at(tmp_path / "part") as rig:
        rig.store(key_of(1))
        wait_for(lambda: policies() == {os.SCHED_BATCH})
