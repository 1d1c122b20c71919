"""Bad files and failing file systems: never wrong bytes, never half a file, and each fault under its name."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from kvatlas.offload import _native
from tests.offload.native import faulty_files
from tests.offload.native.engine_rig import (
    FINGERPRINT,
    ROW_BYTES,
    WAYS,
    WRITER,
    content_of,
    key_of,
    names,
    rig_at,
)

pytestmark = pytest.mark.native

KEY, OTHER = key_of(1), key_of(2)


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> dict[str, object]:
    return dict(WAYS[request.param])


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return faulty_files.compile_shim(tmp_path_factory.mktemp("shim"))


def flipped(at: int) -> Callable[[bytes], bytes]:
    return lambda file: file[:at] + bytes([file[at] ^ 1]) + file[at + 1 :]


def head_of(**change: object) -> Callable[[bytes], bytes]:
    """The file under another head, which is whole in itself."""

    def make(file: bytes) -> bytes:
        fields: dict[str, object] = {
            "key": KEY,
            "fingerprint": FINGERPRINT,
            "payload_bytes": ROW_BYTES,
            "payload_crc32c": _native.crc32c(file[4096:]),
            "writer": WRITER,
            "written_ms": 0,
        }
        return _native.encode_head(**(fields | change)) + file[4096:]  # type: ignore[arg-type]

    return make


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda file: b"",
    "only a head": lambda file: file[:4096],
    "cut within a page": lambda file: file[:-1],
    "cut by a page": lambda file: file[:-4096],
    "a byte too long": lambda file: file + b"\0",
    "a page too long": lambda file: file + bytes(4096),
    "zeros": lambda file: bytes(len(file)),
    "another magic": flipped(0),
    "another version": flipped(8),
    "a flip in the head's zeros": flipped(3000),
    "a flip in the first byte of the payload": flipped(4096),
    "a flip in the last byte of the payload": flipped(4096 + ROW_BYTES - 1),
    "the end of the payload never written": lambda file: file[:20000] + bytes(len(file) - 20000),
    "of another key": head_of(key=OTHER),
    "of another space": head_of(fingerprint=b"fingerprint of 2"),
    "of another size": head_of(payload_bytes=ROW_BYTES - 4096),
    "another checksum": head_of(payload_crc32c=0),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_file_that_is_not_exactly_right_is_corrupt_and_removed_and_can_be_stored_again(
    tmp_path: Path, way: dict[str, object], damage: str
) -> None:
    with rig_at(tmp_path / "part", **way) as rig:
        rig.store(KEY, OTHER)
        path = rig.path(KEY)
        path.write_bytes(DAMAGE[damage](path.read_bytes()))
        finished = rig.collect(len([rig.submit("load", [KEY], [1])]))
        (job,) = finished.values()
        assert names(job) == ["CORRUPT"] and str(path) in job.error and job.error_number == errno.EBADMSG
        assert not path.exists()
        counted = rig.engine.statistics()
        assert counted.removed_corrupt == 1 and sum(counted.faults.values()) == 1
        rig.store(KEY)
        assert rig.load(KEY) == rig.load(OTHER) == "OK"


def test_a_file_under_a_good_head_of_its_own_is_loaded(tmp_path: Path) -> None:
    """What the damages above that make a head are measured against."""
    with rig_at(tmp_path / "part") as rig:
        rig.store(KEY)
        rig.path(KEY).write_bytes(head_of()(rig.path(KEY).read_bytes()))
        assert rig.load(KEY) == "OK"


def test_a_probe_sees_a_wrong_size_and_a_wrong_head_and_not_the_payload(
    tmp_path: Path, way: dict[str, object]
) -> None:
    with rig_at(tmp_path / "part", **way) as rig:
        for damage, outcome in [
            ("cut by a page", "CORRUPT"),
            ("another magic", "CORRUPT"),
            ("another checksum", "OK"),
        ]:
            rig.store(KEY)
            rig.path(KEY).write_bytes(DAMAGE[damage](rig.path(KEY).read_bytes()))
            assert rig.outcomes("probe", [KEY]) == [outcome], damage
            assert rig.path(KEY).exists() == (outcome == "OK")
            rig.path(KEY).unlink(missing_ok=True)


def test_a_store_puts_a_file_of_the_wrong_size_right(tmp_path: Path) -> None:
    with rig_at(tmp_path / "part") as rig:
        rig.store(KEY)
        rig.path(KEY).write_bytes(b"torn")
        rig.store(KEY)
        assert rig.load(KEY) == "OK"


def test_what_is_no_file_under_a_chunks_name_is_no_chunk_and_links_are_not_followed(
    tmp_path: Path, way: dict[str, object]
) -> None:
    with rig_at(tmp_path / "part", **way) as rig:
        rig.store(KEY, OTHER)
        is_direct = rig.engine.statistics().is_direct
        rig.path(KEY).unlink()
        rig.path(KEY).mkdir()
        assert rig.load(KEY) == "CORRUPT" and rig.path(KEY).is_dir()
        rig.path(KEY).rmdir()
        rig.path(KEY).symlink_to(rig.path(OTHER))
        assert rig.load(KEY) == "FAILED"
        assert rig.load(OTHER) == "OK"
        assert rig.engine.statistics().is_direct == is_direct


def test_two_engines_that_write_one_name_leave_a_whole_file(tmp_path: Path) -> None:
    with rig_at(tmp_path / "part") as one, rig_at(tmp_path / "part") as two:
        keys = [key_of(i) for i in range(16)]
        for rig in (one, two):
            for i, key in enumerate(keys):
                rig.rows[i] = content_of(key)
        jobs = [rig.submit("store", keys, range(16)) for _ in range(4) for rig in (one, two)]
        outcomes = {
            outcome
            for rig in (one, two)
            for job in rig.collect(len(jobs) // 2).values()
            for outcome in names(job)
        }
        assert outcomes <= {"OK", "PRESENT"}
        assert [one.load(key) for key in keys] == ["OK"] * 16


STORE_AND_LOAD = """
rig = Rig(folder, uring=False, direct=%(direct)s)
rig.path(key_of(1)).parent.mkdir()
rig.rows[0] = content_of(key_of(1))
job = rig.submit("store", [key_of(1)], [0])
finished = rig.collect()[job]
put(store=names(finished)[0], error=finished.error, number=finished.error_number)
put(again=rig.outcomes("store", [key_of(1)], [0])[0], load=rig.load(key_of(1)))
s = rig.engine.statistics()
put(stale=s.stale_retries, limits=s.open_file_limits, left=s.temporary_left)
put(refusals=s.direct_refusals, direct=s.is_direct)
put(closed=rig.close(), files=sorted(name.rpartition(".")[2] for name in rig.files()))
"""


@pytest.mark.slow
@pytest.mark.parametrize("call", ["OPEN", "PWRITEV", "RENAME", "CLOSE"])
@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (errno.ENOSPC, "NO_SPACE"),
        (errno.EDQUOT, "NO_SPACE"),
        (errno.EFBIG, "NO_SPACE"),
        (errno.EROFS, "READ_ONLY"),
        (errno.EACCES, "READ_ONLY"),
        (errno.EIO, "FAILED"),
        (errno.EMFILE, "FAILED"),
    ],
)
def test_a_store_that_fails_says_why_and_leaves_nothing(
    shim: Path, tmp_path: Path, call: str, error: int, outcome: str
) -> None:
    said = faulty_files.run(
        shim, tmp_path / "part", STORE_AND_LOAD % {"direct": True}, **{call: f"{error}*1"}
    )
    assert said["store"] == outcome and said["number"] == error
    assert os.strerror(error) in str(said["error"]) and str(tmp_path / "part") in str(said["error"])
    assert (said["again"], said["load"], said["files"], said["left"], said["closed"]) == (
        "OK",
        "OK",
        ["kv"],
        0,
        True,
    )
    assert said["limits"] == (error == errno.EMFILE and call == "OPEN")


@pytest.mark.slow
@pytest.mark.parametrize("call", ["OPEN", "PWRITEV", "PREADV"])
def test_a_stale_handle_is_tried_once_more(shim: Path, tmp_path: Path, call: str) -> None:
    once = faulty_files.run(
        shim, tmp_path / "part", STORE_AND_LOAD % {"direct": True}, **{call: f"{errno.ESTALE}*1"}
    )
    assert (once["stale"], once["load"], once["files"]) == (1, "OK", ["kv"])
    assert once["store"] == "OK"
    twice = faulty_files.run(
        shim, tmp_path / "other", STORE_AND_LOAD % {"direct": True}, OPEN=f"{errno.ESTALE}*2"
    )
    assert (twice["stale"], twice["store"], twice["load"]) == (1, "FAILED", "OK")


@pytest.mark.slow
@pytest.mark.parametrize("call", ["PWRITEV", "PREADV"])
@pytest.mark.parametrize("error", [errno.EINTR, errno.EAGAIN])
def test_an_interrupted_call_goes_on(shim: Path, tmp_path: Path, call: str, error: int) -> None:
    said = faulty_files.run(
        shim, tmp_path / "part", STORE_AND_LOAD % {"direct": True}, **{call: f"{error}*3"}
    )
    assert (said["store"], said["load"], said["error"]) == ("OK", "OK", "")


@pytest.mark.slow
@pytest.mark.parametrize(("direct", "most"), [(True, 4096), (True, 8192), (False, 1000), (False, 4097)])
def test_calls_that_move_less_than_asked_go_on_where_they_ended(
    shim: Path, tmp_path: Path, direct: bool, most: int
) -> None:
    said = faulty_files.run(shim, tmp_path / "part", STORE_AND_LOAD % {"direct": direct}, MOST=str(most))
    assert (said["store"], said["load"], said["files"]) == ("OK", "OK", ["kv"])


@pytest.mark.slow
@pytest.mark.parametrize("call", ["OPEN", "PWRITEV", "PREADV"])
def test_a_file_system_that_refuses_direct_access_is_used_without(
    shim: Path, tmp_path: Path, call: str
) -> None:
    said = faulty_files.run(
        shim, tmp_path / "part", STORE_AND_LOAD % {"direct": True}, **{call: f"{errno.EINVAL}*1"}
    )
    assert (said["store"], said["load"], said["files"]) == ("OK", "OK", ["kv"])
    assert said["refusals"] == 1 and said["direct"] is False


@pytest.mark.slow
def test_a_temporary_file_that_cannot_be_removed_is_counted(shim: Path, tmp_path: Path) -> None:
    faults = {"PWRITEV": f"{errno.EIO}*1", "UNLINK": f"{errno.EIO}*1"}
    said = faulty_files.run(shim, tmp_path / "part", STORE_AND_LOAD % {"direct": True}, **faults)
    assert (said["store"], said["again"], said["left"]) == ("FAILED", "OK", 1)
    assert said["files"] == ["kv", "tmp"]


@pytest.mark.slow
@pytest.mark.parametrize("way_name", WAYS)
def test_a_limit_on_the_size_of_files_is_no_space(tmp_path: Path, way_name: str) -> None:
    """A real refusal of the kernel, also within a ring: the first part is written, the rest is not."""
    code = f"""
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
rig = Rig(folder, **WAYS[{way_name!r}])
resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
job = rig.submit("store", [key_of(1)], [0])
finished = rig.collect()[job]
put(store=names(finished)[0], number=finished.error_number, closed=rig.close(), files=sorted(rig.files()))
"""
    assert faulty_files.run(None, tmp_path / "part", code) == {
        "store": "NO_SPACE",
        "number": errno.EFBIG,
        "closed": True,
        "files": [],
    }


@pytest.mark.slow
def test_a_full_disk_is_no_space_and_loads_go_on(tmp_path: Path) -> None:
    """A small file system in memory, where this process may mount one."""
    code = """
rig = Rig(folder, direct=False)
keys = [key_of(i) for i in range(64)]
finished = []
for i, key in enumerate(keys):
    rig.rows[0] = content_of(key)
    finished += rig.outcomes("store", [key], [0])
put(outcomes=sorted(set(finished)), loads=[rig.load(key) for key in keys], stored=finished)
put(closed=rig.close(), temporary=[name for name in rig.files() if name.endswith(".tmp")])
"""
    tmpfs = f'mount -t tmpfs -o size=1m none {tmp_path} && exec "$@"'
    before = ["unshare", "--mount", "--map-root-user", "sh", "-c", tmpfs, "sh"]
    if subprocess.run([*before, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("no mount for this process")
    said = faulty_files.run(None, tmp_path / "part", code, before=before)
    assert said["outcomes"] == ["NO_SPACE", "OK"] and said["temporary"] == [] and said["closed"]
    assert said["loads"] == [{"OK": "OK", "NO_SPACE": "ABSENT"}[outcome] for outcome in said["stored"]]  # type: ignore[attr-defined]
