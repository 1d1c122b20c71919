"""Chunks as objects of a real S3 server: what is written is read again, and nothing else is ever believed."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvatlas.index.errors import ConfigError, StoreError
from kvatlas.offload._native import HEAD_BYTES, encode_head, file_bytes, read_head
from kvatlas.offload.backends.backend import Outcome
from kvatlas.offload.backends.objects import open_objects
from kvatlas.offload.layout.reading import read_chunk
from kvatlas.offload.storing.known import ABSENT, PRESENT
from kvatlas.offload.storing.opening import open_storage
from tests.offload.backends.object_server import BUCKET, ObjectServer
from tests.offload.backends.objects_at_hand import Rig, keys, settings_of
from tests.offload.storing.files_at_hand import (
    N_ROWS,
    ROW_BYTES,
    Process,
    content_of,
    fields_of,
    key_of,
    page_aligned,
)
from tests.ports import deaf_port

pytest.importorskip("obstore")
pytest.importorskip("moto")


@pytest.mark.slow
def test_what_was_stored_is_loaded_again(rig: Rig) -> None:
    numbers = range(N_ROWS)
    assert rig.probe(*numbers) == [Outcome.ABSENT] * N_ROWS
    assert rig.store(*numbers) == [Outcome.OK] * N_ROWS
    assert rig.probe(*numbers) == [Outcome.OK] * N_ROWS
    assert rig.load(*numbers) == [Outcome.OK] * N_ROWS


@pytest.mark.slow
def test_an_object_is_a_chunk_file_byte_for_byte(rig: Rig, tmp_path: Path) -> None:
    rig.store(3)
    copy = tmp_path / "copy.kv"
    copy.write_bytes(rig.get(3))
    head, payload = read_chunk(
        copy, key=key_of(3), fingerprint=fields_of().fingerprint("all"), payload_bytes=ROW_BYTES
    )
    assert payload == content_of(3).tobytes()
    assert head.valid_blocks == head.blocks == 1
    assert copy.stat().st_size == file_bytes(ROW_BYTES)


@pytest.mark.slow
def test_what_is_not_there_is_absent_and_leaves_the_row_alone(rig: Rig) -> None:
    rig.store(1)
    assert rig.load(1, 2, 3) == [Outcome.OK, Outcome.ABSENT, Outcome.ABSENT]


@pytest.mark.slow
def test_a_chunk_that_is_there_is_not_written_again(rig: Rig) -> None:
    rig.store(1)
    before = rig.get(1)
    assert rig.store(1, 2) == [Outcome.PRESENT, Outcome.OK]
    assert rig.get(1) == before


def _flipped(content: bytes, at: int) -> bytes:
    changed = bytearray(content)
    changed[at] ^= 0x10
    return bytes(changed)


@pytest.mark.slow
@pytest.mark.parametrize("at", [0, 20, 70, HEAD_BYTES - 1, HEAD_BYTES, -1])
def test_a_flipped_bit_is_found_and_the_object_written_anew(rig: Rig, at: int) -> None:
    rig.store(1)
    rig.put(1, _flipped(rig.get(1), at))
    assert rig.load(1) == [Outcome.CORRUPT]
    assert rig.backend.statistics()["corrupt_objects"] == 1
    assert rig.load(1) == [Outcome.ABSENT]
    assert rig.store(1) == [Outcome.OK]
    assert rig.load(1) == [Outcome.OK]


@pytest.mark.slow
@pytest.mark.parametrize("n_bytes", [0, 1, HEAD_BYTES, HEAD_BYTES + ROW_BYTES - 1])
def test_a_short_object_is_corrupt_for_probes_and_loads(rig: Rig, n_bytes: int) -> None:
    rig.store(1, 2)
    rig.put(1, rig.get(1)[:n_bytes])
    rig.put(2, rig.get(2)[:n_bytes])
    assert rig.load(1) == [Outcome.CORRUPT]
    assert rig.probe(2) == [Outcome.CORRUPT]


@pytest.mark.slow
def test_a_long_object_is_corrupt_and_its_bytes_are_not_taken_in(rig: Rig) -> None:
    rig.store(1)
    rig.put(1, rig.get(1) + bytes(1 << 20))
    assert rig.load(1) == [Outcome.CORRUPT]


@pytest.mark.slow
def test_an_object_under_another_key_is_corrupt(rig: Rig) -> None:
    rig.store(1)
    rig.put(2, rig.get(1))
    assert rig.probe(2) == [Outcome.CORRUPT]
    rig.put(2, rig.get(1))
    assert rig.load(2) == [Outcome.CORRUPT]


@pytest.mark.slow
def test_an_object_of_other_fields_is_corrupt(rig: Rig) -> None:
    rig.store(1)
    rig.put(1, _with_fingerprint(rig.get(1), fields_of("acme/other").fingerprint("all")))
    assert rig.load(1) == [Outcome.CORRUPT]


def _with_fingerprint(content: bytes, fingerprint: bytes) -> bytes:
    head = read_head(content[:HEAD_BYTES])
    changed = encode_head(
        key=head.key,
        fingerprint=fingerprint,
        payload_bytes=head.payload_bytes,
        payload_crc32c=head.payload_crc32c,
        writer=head.writer,
        written_ms=head.written_ms,
    )
    return changed + content[HEAD_BYTES:]


@pytest.mark.slow
def test_a_storage_stores_finds_and_loads_objects(rig: Rig) -> None:
    first = Process(open_storage(rig.settings, fields_of(), memory := page_aligned()), memory)
    try:
        assert first.lookup(1, 2) == [ABSENT] * 2
        assert first.store(1, 2).ok == keys([1, 2])
    finally:
        first.storage.close()
    second = Process(open_storage(rig.settings, fields_of(), memory := page_aligned()), memory)
    try:
        assert second.lookup(1, 2, 3) == [PRESENT, PRESENT, ABSENT]
        assert second.load(1, 2).ok == keys([1, 2]) and second.holds(1, 2)
        second.until(lambda: second.storage.statistics().counters["inventory"] == 2)
    finally:
        second.storage.close()


@pytest.mark.slow
def test_two_writers_of_one_chunk_leave_one_whole_object(rig: Rig, server: ObjectServer) -> None:
    other = Rig(server)
    try:
        for number in range(8):
            jobs = rig.submit_store(number), other.submit_store(number)
            ended = sorted(rig.end(jobs[0]).outcomes + other.end(jobs[1]).outcomes)
            assert ended == [Outcome.OK, Outcome.PRESENT]
            assert other.load(number) == [Outcome.OK]
    finally:
        other.close()


@pytest.mark.slow
def test_the_inventory_names_what_is_there(rig: Rig, server: ObjectServer) -> None:
    rig.store(*range(5))
    rig.put(2, b"torn")
    server.request("PUT", f"/{BUCKET}/fleet/notes.txt", b"somebody's")
    found = [key for batch in rig.backend.inventory() for key in batch]
    assert sorted(found) == sorted(keys([0, 1, 3, 4]))


@pytest.mark.slow
def test_jobs_beyond_the_queue_are_refused_and_counted(server: ObjectServer) -> None:
    rig = Rig(server, queued_max=4)
    try:
        assert not rig.backend.submit_probe(99, keys(range(5)))
        assert rig.backend.statistics()["refused_jobs"] == 1
        assert rig.probe(*range(4)) == [Outcome.ABSENT] * 4
    finally:
        rig.close()


@pytest.mark.slow
def test_large_chunks_bound_the_requests_at_once(server: ObjectServer) -> None:
    rig = Rig(server, staging_bytes=1 << 16, readers=64, writers=64)
    try:
        figures = rig.backend.statistics()
        assert figures["readers"] == figures["writers"] == (1 << 15) // file_bytes(ROW_BYTES)
    finally:
        rig.close()


@pytest.mark.slow
def test_the_memory_can_be_released_once_it_is_closed(rig: Rig) -> None:
    rig.store(1)
    rig.load(1)
    rig.backend.close(5.0)
    rig.view.release()
    rig.memory.clear()  # raises while anybody holds it
    assert not rig.backend.submit_probe(99, keys([1]))
    rig.backend.close(5.0)


@pytest.mark.slow
def test_another_store_at_the_same_place_is_refused(rig: Rig) -> None:
    with pytest.raises(StoreError, match="expected store 's2', got 's1'") as error:
        open_objects(settings_of(rig.proxy.port, name="s2"), fields_of(), bytearray(ROW_BYTES))
    assert error.value.__cause__ is None


@pytest.mark.slow
def test_another_configuration_at_the_same_place_is_refused(rig: Rig) -> None:
    path = f"/{BUCKET}/fleet/{fields_of().space_name()}/config.json"
    rig.server.request("PUT", path, fields_of("acme/other").encode())
    with pytest.raises(StoreError, match="expected model 'acme/tiny', got 'acme/other'"):
        open_objects(rig.settings, fields_of(), bytearray(ROW_BYTES))


def test_a_bucket_that_is_not_there_is_refused_for_good(server: ObjectServer) -> None:
    settings = settings_of(server.port, root="s3://no-such-bucket/fleet")
    with pytest.raises(StoreError, match="NoSuchBucket") as error:
        open_objects(settings, fields_of(), bytearray(ROW_BYTES))
    assert error.value.__cause__ is None


@pytest.mark.slow
def test_a_server_that_does_not_answer_is_worth_another_try(server: ObjectServer) -> None:
    with deaf_port() as port, pytest.raises(StoreError, match="error sending request") as error:
        open_objects(settings_of(port), fields_of(), bytearray(ROW_BYTES))
    assert isinstance(error.value.__cause__, OSError)


def test_wrong_credentials_are_one_clear_error(server: ObjectServer) -> None:
    server.request("POST", "/moto-api/reset-auth", b"0")  # from now on credentials are looked at
    try:
        with pytest.raises(StoreError, match=r"store\.json.*InvalidAccessKeyId") as error:
            open_objects(settings_of(server.port), fields_of(), bytearray(ROW_BYTES))
        assert error.value.__cause__ is None
        assert "\n" not in str(error.value)
        assert "secret of somebody" not in str(error.value)
    finally:
        server.request("POST", "/moto-api/reset-auth", b"Infinity")


@pytest.mark.parametrize("root", ["gs://bucket/x", "s3://", "s3:///x"])
def test_other_urls_are_refused(root: str) -> None:
    with pytest.raises(ConfigError, match="root: expected a folder or s3://bucket/prefix"):
        open_objects(settings_of(1, root=root), fields_of(), bytearray(ROW_BYTES))


def test_secrets_in_the_configuration_are_refused() -> None:
    settings = settings_of(1, objects={"secret_access_key": "hush"})
    with pytest.raises(
        ConfigError, match=r"objects\.secret_access_key: .* come from the environment"
    ) as error:
        open_objects(settings, fields_of(), bytearray(ROW_BYTES))
    assert "hush" not in str(error.value)
