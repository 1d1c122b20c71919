"""Commands on the wire, and their slots."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvatlas.index.remote.connection.commands import Command, pack, slot_of
from kvatlas.index.remote.connection.scripts import Script

ARGUMENTS = st.binary(max_size=20) | st.text(max_size=20) | st.integers(-(1 << 63), (1 << 64) - 1)


@given(st.lists(st.lists(ARGUMENTS, min_size=1, max_size=5), max_size=4))
def test_bytes_are_those_of_another_packer(commands: list[list[bytes | str | int]]) -> None:
    packer: Any = pytest.importorskip("hiredis").pack_command  # its type knows tuples of one argument
    expected = b"".join(packer(tuple(words)) for words in commands)
    assert pack(Command(None, tuple(words)) for words in commands) == expected


def test_what_only_behaves_like_bytes_is_taken_for_bytes() -> None:
    assert pack([Command(None, ("X", bytearray(b"ab"), memoryview(b"cd")))]) == pack(  # type: ignore[arg-type]
        [Command(None, ("X", b"ab", b"cd"))]
    )


@given(st.binary(max_size=12) | st.lists(st.sampled_from([b"{", b"}", b"a", b"b"]), max_size=8).map(b"".join))
def test_slot_of_a_key_is_what_redis_says(key: bytes) -> None:
    assert slot_of(key) == pytest.importorskip("redis.crc").key_slot(key)


def test_call_of_a_script_goes_where_its_first_key_lies() -> None:
    script = Script.of("return 1")
    assert script.sha == b"e0e1f9fabfc9d4800c877a703b823ac0578ff8db"
    assert script.command(["{a}:1", b"{a}:2"], [b"x", 5]) == Command(
        b"{a}:1", (b"EVALSHA", script.sha, 2, "{a}:1", b"{a}:2", b"x", 5)
    )
    assert script.command([]).key is None
