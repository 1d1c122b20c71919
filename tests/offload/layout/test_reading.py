"""The verifier of one file: a whole file is read, anything else is refused with a reason."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvatlas.index.errors import StoreError
from kvatlas.offload.layout.reading import check_chunk, read_chunk
from kvatlas.offload.layout.space import Space, open_space
from tests.offload.layout.spaces import KEY, chunk, fields, put


@pytest.fixture
def space(tmp_path: Path) -> Space:
    return open_space(tmp_path, fields(), store="fast")


@pytest.mark.parametrize("n_bytes", [1, 4095, 4096, 4097, 10_000, (1 << 20) + 5])
def test_a_whole_file_gives_its_payload(space: Space, n_bytes: int) -> None:
    payload = os.urandom(n_bytes)
    path = put(space, content=chunk(space, payload=payload))
    head, read = read_chunk(path, key=KEY, fingerprint=space.fingerprint, payload_bytes=n_bytes)
    assert read == payload and head == check_chunk(path)


@given(data=st.data())
def test_any_flipped_bit_and_any_other_length_is_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    root = tmp_path_factory.mktemp("store")
    space = open_space(root, fields(), store="fast")
    content = bytearray(chunk(space))
    if data.draw(st.booleans()):
        bit = data.draw(st.integers(0, 8 * len(content) - 1))
        content[bit // 8] ^= 1 << bit % 8
    else:
        length = data.draw(st.integers(0, len(content) + 5000).filter(lambda n: n != len(content)))
        content = content[:length].ljust(length, b"\0")
    path = put(space, content=bytes(content))
    with pytest.raises(StoreError, match="expected"):
        check_chunk(path, key=KEY, fingerprint=space.fingerprint)


def test_a_file_in_the_place_of_another_is_refused(space: Space) -> None:
    path = put(space)
    with pytest.raises(StoreError, match="expected key 00000000"):
        check_chunk(path, key=bytes(36))
    with pytest.raises(StoreError, match="expected fingerprint 00000000"):
        check_chunk(path, fingerprint=bytes(16))
    with pytest.raises(StoreError, match="expected payload_bytes 1, got 10000"):
        check_chunk(path, payload_bytes=1)


def test_what_is_no_plain_file_is_neither_waited_for_nor_followed(space: Space, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to(put(space))
    for name, reason in [("fifo", "a plain file"), ("link", "can be read"), (space.name, "plain file")]:
        with pytest.raises(StoreError, match=reason):
            check_chunk(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        check_chunk(tmp_path / "absent")


def test_an_error_names_the_file(space: Space) -> None:
    path = put(space, content=b"")
    with pytest.raises(StoreError, match=str(path)):
        check_chunk(path)
