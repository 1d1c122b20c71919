"""Addresses of tokenization services, as configuration states them."""

from __future__ import annotations

from typing import NamedTuple

from kvatlas.index.errors import ConfigError

_PORT_MAX = 65535
_PATH_BYTES_MAX = 107  # what the kernel's address of a Unix socket holds


class Address(NamedTuple):
    """A place to listen at or to dial: either a path, or host and port."""

    path: str = ""
    host: str = ""
    port: int = 0

    @property
    def target(self) -> str:
        """As gRPC takes it."""
        return f"unix:{self.path}" if self.path else f"{self.host}:{self.port}"


def parse_address(text: str, where: str) -> Address:
    """Reads `unix:PATH`, `HOST:PORT` or `:PORT`. Raises ConfigError that begins with `where`."""
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if path.startswith("//"):  # unix:///PATH, the form of a URL
            path = path[2:]
        if not path or "\0" in path or len(path.encode("utf-8", "surrogateescape")) > _PATH_BYTES_MAX:
            raise ConfigError(f"{where}: expected unix:PATH of 1 to {_PATH_BYTES_MAX} bytes, got {text!r}")
        return Address(path=path)
    host, colon, port = text.rpartition(":")
    is_host = (host.startswith("[") and host.endswith("]")) or not set(host) & set(":/[] \0")
    if not colon or not is_host or not (port.isascii() and port.isdigit() and int(port) <= _PORT_MAX):
        raise ConfigError(f"{where}: expected unix:PATH or HOST:PORT, got {text!r}")
    return Address(host=host or "127.0.0.1", port=int(port))
