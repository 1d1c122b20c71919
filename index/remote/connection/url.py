"""URLs of Redis and Valkey servers, as people write them."""

from __future__ import annotations

from typing import Literal, NamedTuple
from urllib.parse import parse_qsl, unquote

import msgspec

from kvatlas.index.errors import ConfigError

DEFAULT_PORT = 6379

Kind = Literal["redis", "valkey"]

# scheme -> (kind, TLS, unix socket)
_SCHEMES: dict[str, tuple[Kind, bool, bool]] = {
    "redis": ("redis", False, False),
    "rediss": ("redis", True, False),
    "valkey": ("valkey", False, False),
    "valkeys": ("valkey", True, False),
    "unix": ("redis", False, True),
    "redis+unix": ("redis", False, True),
    "valkey+unix": ("valkey", False, True),
}
_OPTIONS = ("db", "cluster", "ca", "certificate", "key", "verify")
_TRUTHS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


class Address(NamedTuple):
    """Where one server listens: a host and port, or the path of a unix socket."""

    host: str
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        if self.path:
            return self.path
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class RemoteUrl(msgspec.Struct, frozen=True, kw_only=True):
    """A parsed URL. Its repr leaves out the password.

    scheme://[user[:password]@]host[:port][,host[:port]...][/db][?options]
    unix://[user[:password]@]/path/of/socket[?options]

    Schemes: redis, valkey; rediss, valkeys (TLS); unix, redis+unix, valkey+unix. Options: db (a number),
    cluster (true: the hosts are nodes of a cluster), and of TLS: ca, certificate, key (paths), verify (true,
    or false: any certificate will do). What is special in a user or password is written as %XX.
    """

    kind: Kind
    is_tls: bool
    is_cluster: bool
    addresses: tuple[Address, ...]
    """Several: nodes that tell of a cluster."""
    db: int
    user: str | None
    password: str | None
    tls_ca: str | None
    tls_certificate: str | None
    tls_key: str | None
    tls_verify: bool | None

    @staticmethod
    def parse(text: str) -> RemoteUrl:
        """Raises ConfigError, which never quotes what may be a secret."""
        scheme, separator, rest = text.partition("://")
        if not separator or scheme.lower() not in _SCHEMES:
            raise ConfigError(f"url: expected one of {', '.join(_SCHEMES)} and ://, got {_start_of(text)}")
        kind, is_tls, is_unix = _SCHEMES[scheme.lower()]
        rest, _, query = rest.partition("?")
        options = _parse_options(query)
        who, at, where = rest.rpartition("@")
        user, password = _parse_user(who) if at else (None, None)
        db = options.get("db", "0")
        if is_unix:
            addresses: tuple[Address, ...] = (_parse_path(where),)
        else:
            hosts, _, path = where.partition("/")
            db = path.strip("/") or db
            addresses = tuple(_parse_host(host) for host in hosts.split(","))
        is_cluster = _parse_truth("cluster", options.get("cluster", "false"))
        verify = options.get("verify")
        url = RemoteUrl(
            kind=kind,
            is_tls=is_tls,
            is_cluster=is_cluster,
            addresses=addresses,
            db=_parse_number("db", db, 1 << 16),
            user=user,
            password=password,
            tls_ca=options.get("ca"),
            tls_certificate=options.get("certificate"),
            tls_key=options.get("key"),
            tls_verify=None if verify is None else _parse_truth("verify", verify),
        )
        return url._checked(is_unix)

    def _checked(self, is_unix: bool) -> RemoteUrl:
        if self.is_cluster and is_unix:
            raise ConfigError("url: expected hosts where cluster=true, got a unix socket")
        if self.is_cluster and self.db:
            raise ConfigError(f"url: expected db 0 where cluster=true, got {self.db}: a cluster has one")
        if len(self.addresses) > 1 and not self.is_cluster:
            raise ConfigError(f"url: expected one host without cluster=true, got {len(self.addresses)}")
        has_tls_options = (self.tls_ca, self.tls_certificate, self.tls_key, self.tls_verify) != (None,) * 4
        if has_tls_options and not self.is_tls:
            raise ConfigError(
                "url: expected rediss:// or valkeys:// where ca, certificate, key or verify is given"
            )
        return self

    def __str__(self) -> str:
        """Without user and password."""
        if self.addresses[0].path:
            return f"{self.kind}+unix://{self.addresses[0]}"
        where = ",".join(map(str, self.addresses))
        return f"{self.kind}{'s' if self.is_tls else ''}://{where}{f'/{self.db}' if self.db else ''}"

    def __repr__(self) -> str:
        return f"RemoteUrl({str(self)!r}, is_cluster={self.is_cluster})"


def _start_of(text: str) -> str:
    """Of what is no URL, no more than cannot be a secret."""
    scheme, separator, _ = text.partition("://")
    return repr(f"{scheme[:16]}://...") if separator else f"{len(text)} characters without ://"


def _parse_user(who: str) -> tuple[str | None, str | None]:
    user, colon, password = who.partition(":")
    return unquote(user) or None, unquote(password) if colon else None


def _parse_path(where: str) -> Address:
    path = unquote(where)
    if not path.startswith("/"):
        raise ConfigError("url: expected the absolute path of a unix socket after ://[user:password@]")
    return Address("", 0, path)


def _parse_host(host: str) -> Address:
    if host.startswith("["):
        name, bracket, port = host[1:].partition("]")
        port = port.removeprefix(":") if bracket else "?"
    else:
        name, _, port = host.partition(":")
    # Where the password holds an unquoted / or ?, its parts arrive here as host and port: not shown.
    if not name or not (port == "" or (port.isascii() and port.isdigit() and 0 < int(port) < 65536)):
        raise ConfigError(
            "url: expected host[:port], the port from 1 to 65535 (what is special in a password: as %XX)"
        )
    return Address(name, int(port) if port else DEFAULT_PORT)


def _parse_options(query: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in _OPTIONS:
            known = ", ".join(_OPTIONS)
            raise ConfigError(
                f"url: expected options of {known}, got one of {len(name)} characters that is none"
            )
        options[name] = value
    return options


def _parse_truth(name: str, value: str) -> bool:
    if value.lower() not in _TRUTHS:
        raise ConfigError(f"url: {name}: expected true or false, got {value[:16]!r}")
    return _TRUTHS[value.lower()]


def _parse_number(name: str, value: str, bound: int) -> int:
    if not (value.isascii() and value.isdigit() and len(value) < 9 and int(value) < bound):
        raise ConfigError(f"url: {name}: expected a number below {bound}")
    return int(value)
