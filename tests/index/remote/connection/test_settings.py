"""Settings of a remote index."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from kvatlas.index.errors import ConfigError
from kvatlas.index.remote.connection.settings import RemoteSettings


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("url", "http://cache"),
        ("format", "json"),
        ("namespace", ""),
        ("namespace", "a{b}"),
        ("namespace", "a" * 65),
        ("buckets", -1),
        ("buckets", 4097),
        ("ttl_s", 59),
        ("blocks_max", 1023),
        ("timeout_ms", 0),
        ("timeout_ms", 1.5),
        ("timeout_ms", True),
        ("write_timeout_ms", 60_001),
        ("connect_timeout_ms", 0),
        ("backoff_ms_max", 0),
        ("connections_max", 0),
        ("reply_bytes_max", 1),
    ],
)
def test_value_out_of_range_is_refused_with_its_name(field: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"^{field}: expected"):
        RemoteSettings(**{field: value})


def test_a_bucket_is_enough_for_one_server_and_a_cluster_has_many() -> None:
    assert RemoteSettings().n_buckets == 1
    assert RemoteSettings(url="redis://a?cluster=true").n_buckets == 256
    assert RemoteSettings(url="redis://a?cluster=true", buckets=8).n_buckets == 8


def test_password_comes_from_a_variable_where_the_url_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUR_PASSWORD", "word")
    assert RemoteSettings(password_variable="OUR_PASSWORD").parsed_url().password == "word"
    own = RemoteSettings(url="redis://:own@cache", password_variable="OUR_PASSWORD")
    assert own.parsed_url().password == "own"
    monkeypatch.delenv("OUR_PASSWORD")
    with pytest.raises(ConfigError, match="OUR_PASSWORD"):
        RemoteSettings(password_variable="OUR_PASSWORD").parsed_url()


def test_repr_has_no_password_and_copies_keep_it() -> None:
    settings = RemoteSettings(url="redis://user:tOp5ecret@cache")
    assert "tOp5ecret" not in repr(settings) and "cache" in repr(settings)
    again = msgspec.msgpack.decode(msgspec.msgpack.encode(settings), type=RemoteSettings)
    assert again.parsed_url().password == "tOp5ecret"
