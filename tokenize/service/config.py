"""Where a gRPC service listens, and its bounds."""

from __future__ import annotations

import msgspec

from kvatlas.index.errors import ConfigError
from kvatlas.tokenize.service.addresses import parse_address


class ServiceConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A gRPC service, such as the one of tokens. Raises ConfigError for values out of range, with their name.

    Whoever can connect may ask: keep it on a Unix socket or the loopback address, or give it TLS files.
    """

    listen: tuple[str, ...] = ("127.0.0.1:50051",)
    """unix:PATH, HOST:PORT, or :PORT for the loopback address; port 0: any that is free."""
    threads: int = 4
    """Calls that are worked on at a time; one of several threads is kept for models that are loaded."""
    waiting_max: int = 64
    """Calls that wait for one of these threads; more are refused with RESOURCE_EXHAUSTED."""
    waiting_bytes_max: int = 256 << 20
    """Bytes of the requests being worked on or waiting; one is always taken."""
    answer_s_max: float = 60.0
    """A call that has no answer after so long is given up; its own deadline may be earlier."""
    message_bytes_max: int = 64 << 20
    """Of a request, and of an answer."""
    socket_mode: str = "600"
    """Permissions of a Unix socket, as octal digits."""
    tls_certificate_file: str | None = None
    """PEM, with intermediate ones behind it. None: no TLS. Unix sockets never have it."""
    tls_key_file: str | None = None
    """PEM, of the certificate."""
    tls_client_ca_file: str | None = None
    """PEM: clients must have a certificate of one of these authorities. None: they need none."""
    reflection: bool = True
    """Whether clients may ask what calls there are, as grpcurl does."""
    grace_s: float = 10.0
    """Time that calls have to end when the service is stopped."""

    def __post_init__(self) -> None:
        if not self.listen:
            raise ConfigError("listen: expected an address or more, got none")
        for place, address in enumerate(self.listen):
            parse_address(address, f"listen[{place}]")
        _between(self, "threads", 1, 1024)
        _between(self, "waiting_max", 1, 4096)
        _between(self, "waiting_bytes_max", 1, 1 << 40)
        _between(self, "answer_s_max", 0.001, 86_400)
        _between(self, "message_bytes_max", 1024, (1 << 31) - 1)  # what gRPC can count
        _between(self, "grace_s", 0, 86_400)
        self._check_mode()
        self._check_tls()

    def _check_mode(self) -> None:
        is_octal = 1 <= len(self.socket_mode) <= 4 and not set(self.socket_mode) - set("01234567")
        if not is_octal or int(self.socket_mode, 8) > 0o777:
            raise ConfigError(f"socket_mode: expected octal digits up to 777, got {self.socket_mode!r}")

    def _check_tls(self) -> None:
        if (self.tls_certificate_file is None) != (self.tls_key_file is None):
            raise ConfigError("tls_key_file: expected it together with tls_certificate_file, got one of them")
        if self.tls_client_ca_file is not None and self.tls_certificate_file is None:
            raise ConfigError("tls_client_ca_file: expected tls_certificate_file beside it, got none")


def _between(config: ServiceConfig, name: str, least: float, most: float) -> None:
    value = getattr(config, name)
    if isinstance(value, bool) or not least <= value <= most:
        raise ConfigError(f"{name}: expected {least} to {most}, got {value!r}")
