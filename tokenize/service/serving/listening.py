"""The addresses at which a service listens."""

from __future__ import annotations

from pathlib import Path

import grpc

from kvatlas.index.errors import ConfigError
from kvatlas.tokenize.service.addresses import Address, parse_address
from kvatlas.tokenize.service.config import ServiceConfig
from kvatlas.tokenize.service.serving.unix_socket import UnixSocket


class Listeners:
    """Opens them for a server that has not begun, and clears them away after it has ended. One thread."""

    def __init__(self, config: ServiceConfig) -> None:
        self._config = config
        self._sockets: list[UnixSocket] = []

    def open(self, server: grpc.Server) -> tuple[str, ...]:
        """All of them, as clients dial them. Raises ConfigError where one cannot be had."""
        credentials = _credentials(self._config)
        return tuple(
            self._listen(server, parse_address(text, f"listen[{place}]"), credentials)
            for place, text in enumerate(self._config.listen)
        )

    def close(self) -> None:
        while self._sockets:
            self._sockets.pop().release()

    def _listen(self, server: grpc.Server, address: Address, tls: grpc.ServerCredentials | None) -> str:
        if address.path:
            place = UnixSocket(address.path, int(self._config.socket_mode, 8))
            place.bind(lambda: _add(server, address, None))
            self._sockets.append(place)
            return address.target
        return address._replace(port=_add(server, address, tls)).target


def _add(server: grpc.Server, address: Address, tls: grpc.ServerCredentials | None) -> int:
    try:
        if tls is None:
            port = server.add_insecure_port(address.target)
        else:
            port = server.add_secure_port(address.target, tls)
    except RuntimeError as error:
        raise ConfigError(f"{address.target}: expected to listen there: {error}") from error
    if not port:  # how older releases say it
        raise ConfigError(f"{address.target}: expected to listen there, it cannot be had")
    return port


def _credentials(config: ServiceConfig) -> grpc.ServerCredentials | None:
    if config.tls_certificate_file is None or config.tls_key_file is None:
        return None
    pair = (_bytes_of(config.tls_key_file), _bytes_of(config.tls_certificate_file))
    authorities = _bytes_of(config.tls_client_ca_file) if config.tls_client_ca_file else None
    return grpc.ssl_server_credentials([pair], authorities, require_client_auth=authorities is not None)


def _bytes_of(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: expected a PEM file: {error}") from error
