"""Settings of an index in Redis or Valkey."""

from __future__ import annotations

import os
from typing import Literal, get_args

import msgspec

from kvatlas.index.errors import ConfigError
from kvatlas.index.remote.connection.url import RemoteUrl

Format = Literal["kvatlas", "llmd"]


class RemoteSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where an index in Redis or Valkey is, and its bounds. Its repr shows no secret.

    Raises ConfigError for values out of range, with their path.
    """

    # Behaviour.
    url: str = "redis://127.0.0.1:6379"
    """redis://, rediss:// (TLS), valkey://, valkeys://, unix:///path; user:password@; host:port, several with
    commas and ?cluster=true; /db; and for TLS ca=, certificate=, key= (paths), verify=false."""
    password_variable: str = ""
    """Environment variable that holds the password, where the URL has none. Empty: none."""
    namespace: str = "kvatlas"
    """First part of all keys of the format kvatlas, 1 to 64 characters of a-z A-Z 0-9 . _ -. Indexes with
    different namespaces share a server."""
    format: Format = "kvatlas"
    """kvatlas: compact, one round trip a request. llmd: bit-compatible with llm-d's index, for sharing one
    with it."""
    buckets: int = 0
    """Parts that keys are spread over, 1 to 4096; each lies on one node of a cluster, all processes must
    agree. 0: 1, and 256 in a cluster."""
    ttl_s: int = 0
    """Time after which what nobody stored or read again is forgotten, from 60. 0: never."""
    blocks_max: int = 0
    """Blocks that the index keeps on the server, from 1024; at the bound those used longest ago are dropped.
    0: the server's own memory limit is the only one."""

    # Performance and bounds.
    timeout_ms: int = 100
    """What one request waits for the server, 1 to 60 000."""
    write_timeout_ms: int = 2000
    """What one batch of changes waits for the server, 1 to 60 000."""
    connect_timeout_ms: int = 1000
    """What a request may wait besides where a connection is made first, TLS and password included, 1 to 60
    000."""
    backoff_ms_max: int = 2000
    """After a failure nobody asks the server again for a time that doubles from failure to failure, up to
    this, 1 to 600 000."""
    connections_max: int = 32
    """Connections of one process to one server, 1 to 1024; further requests wait for one, within their
    time."""
    reply_bytes_max: int = 256 << 20
    """Bytes that the answers of one request may have, from 1 MiB."""

    def __post_init__(self) -> None:
        RemoteUrl.parse(self.url)
        if self.format not in get_args(Format):
            raise ConfigError(f"format: expected one of {get_args(Format)}, got {self.format!r}")
        name = self.namespace
        plain = name.replace(".", "").replace("_", "").replace("-", "")
        if not (1 <= len(name) <= 64 and name.isascii() and (plain.isalnum() or not plain)):
            raise ConfigError(
                f"namespace: expected 1 to 64 characters of a-z A-Z 0-9 . _ -, got {name[:80]!r}"
            )
        for field, low, high, is_none_allowed in _RANGES:
            value = getattr(self, field)
            good = type(value) is int and (low <= value <= high or (is_none_allowed and value == 0))
            if not good:
                none = ", or 0" if is_none_allowed else ""
                raise ConfigError(f"{field}: expected an int from {low} to {high}{none}, got {value!r}")

    def parsed_url(self) -> RemoteUrl:
        """The URL, with the password of `password_variable` where it has none.

        Raises ConfigError when that variable is not set.
        """
        url = RemoteUrl.parse(self.url)
        if not self.password_variable or url.password is not None:
            return url
        password = os.environ.get(self.password_variable)
        if password is None:
            raise ConfigError(
                f"password_variable: expected the password in {self.password_variable}, which is not set"
            )
        return msgspec.structs.replace(url, password=password)

    @property
    def n_buckets(self) -> int:
        """`buckets`, resolved."""
        return self.buckets or (256 if RemoteUrl.parse(self.url).is_cluster else 1)

    def __repr__(self) -> str:
        fields = (name for name in self.__struct_fields__ if name != "url")
        rest = ", ".join(f"{name}={getattr(self, name)!r}" for name in fields)
        return f"RemoteSettings(url={str(RemoteUrl.parse(self.url))!r}, {rest})"


# name, low, high, whether 0 stands for none
_RANGES = (
    ("buckets", 1, 4096, True),
    ("ttl_s", 60, 1 << 31, True),
    ("blocks_max", 1024, 1 << 40, True),
    ("timeout_ms", 1, 60_000, False),
    ("write_timeout_ms", 1, 60_000, False),
    ("connect_timeout_ms", 1, 60_000, False),
    ("backoff_ms_max", 1, 600_000, False),
    ("connections_max", 1, 1024, False),
    ("reply_bytes_max", 1 << 20, 1 << 34, False),
)
