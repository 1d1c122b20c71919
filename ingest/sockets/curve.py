"""CURVE: encryption of sockets, and who may publish to a socket that listens."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import zmq
from zmq.utils import z85

from kvatlas.index.errors import ConfigError

_ZAP_ENDPOINT = "inproc://zeromq.zap.01"
_ZAP_VERSION = b"1.0"
_ZAP_FRAMES = 7
_KEY_CHARACTERS = 40
_Z85 = frozenset("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#")

Socket = zmq.Socket[bytes]


class CurveConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Keys of a source, 40 characters of Z85 each. Raises ConfigError for what is none, without its text."""

    server_key: str | None = None
    """Public key of the publisher and of its replay socket. Needed to connect."""
    public_key: str | None = None
    """Our own, where servers know their clients. None: made from `secret_key`; without that one,
    both are made anew for each start."""
    secret_key: str | None = None
    """Our own. Needed to listen."""
    client_keys: tuple[str, ...] = ()
    """Public keys of the publishers that may dial us. Needed to listen."""

    def __post_init__(self) -> None:
        if self.public_key is not None and self.secret_key is None:
            raise ConfigError("curve.secret_key: expected the one of public_key, got None")
        named = [(name, getattr(self, name)) for name in ("server_key", "public_key", "secret_key")]
        named += [(f"client_keys[{number}]", key) for number, key in enumerate(self.client_keys)]
        for name, key in named:
            if key is not None and not (len(key) == _KEY_CHARACTERS and _Z85.issuperset(key)):
                raise ConfigError(
                    f"curve.{name}: expected {_KEY_CHARACTERS} characters of Z85, got {len(key)} characters"
                )

    def __repr__(self) -> str:
        """Without the secret key."""
        secret = None if self.secret_key is None else "..."
        return (
            f"CurveConfig(server_key={self.server_key!r}, public_key={self.public_key!r}, "
            f"secret_key={secret!r}, client_keys={self.client_keys!r})"
        )


def encrypt_as_client(socket: Socket, curve: CurveConfig) -> None:
    """Before it connects. Raises ConfigError without a `server_key`."""
    if curve.server_key is None:
        raise ConfigError("curve.server_key: expected the server's public key, to connect to it; got None")
    public, secret = _own_keys(curve)
    socket.set(zmq.CURVE_PUBLICKEY, public)
    socket.set(zmq.CURVE_SECRETKEY, secret)
    socket.set(zmq.CURVE_SERVERKEY, curve.server_key.encode())


def encrypt_as_server(socket: Socket, curve: CurveConfig, domain: str = "") -> None:
    """Before it binds. With a `domain`, a doorkeeper knows who may dial; else anybody who has our key.

    Raises ConfigError without a `secret_key`.
    """
    if curve.secret_key is None:
        raise ConfigError("curve.secret_key: expected our own, to listen; got None")
    socket.set(zmq.CURVE_SECRETKEY, curve.secret_key.encode())
    socket.set(zmq.CURVE_SERVER, True)
    if domain:
        socket.set(zmq.ZAP_DOMAIN, domain.encode())
        socket.set(zmq.ZAP_ENFORCE_DOMAIN, True)


def _own_keys(curve: CurveConfig) -> tuple[bytes, bytes]:
    if curve.secret_key is None:
        return zmq.curve_keypair()
    secret = curve.secret_key.encode()
    return zmq.curve_public(secret) if curve.public_key is None else curve.public_key.encode(), secret


class Doorkeeper:
    """Answers ZeroMQ's question whether a key may dial: one for a context, since ZeroMQ asks just one.

    Used by one thread; `socket` is to be polled there. Source: ZeroMQ RFC 27 (ZAP).
    """

    def __init__(self, context: zmq.Context[Socket], refused: Callable[[str], None]) -> None:
        """`refused(domain)` is called for each that is turned away."""
        self.socket = context.socket(zmq.ROUTER)
        self.socket.set(zmq.LINGER, 0)
        self.socket.bind(_ZAP_ENDPOINT)
        self._refused = refused
        self._allowed: dict[bytes, frozenset[bytes]] = {}

    def allow(self, domain: str, client_keys: tuple[str, ...]) -> None:
        """Publishers with these keys may dial the sockets of this domain."""
        self._allowed[domain.encode()] = frozenset(key.encode() for key in client_keys)

    def forget(self, domain: str) -> None:
        self._allowed.pop(domain.encode(), None)

    def answer(self) -> None:
        """Answer all questions that wait."""
        while True:
            try:
                envelope, _, *question = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            if len(question) == _ZAP_FRAMES and question[0] == _ZAP_VERSION:
                status, text = self._judge(*question[2:])
                self.socket.send_multipart([envelope, b"", _ZAP_VERSION, question[1], status, text, b"", b""])

    def _judge(
        self, domain: bytes, _address: bytes, _identity: bytes, mechanism: bytes, credential: bytes
    ) -> tuple[bytes, bytes]:
        allowed = self._allowed.get(domain, frozenset())
        if mechanism == b"CURVE" and z85.encode(credential) in allowed:
            return b"200", b"OK"
        self._refused(domain.decode())
        return b"400", b"unknown key"

    def close(self) -> None:
        self.socket.close(linger=0)
