"""What is known of a source of batches: its endpoints, its names, its keys."""

from __future__ import annotations

import re

import msgspec

from kvatlas.index.errors import ConfigError, InputError
from kvatlas.ingest.sockets.curve import CurveConfig

_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_RAISED_PORT = re.compile(r"(\d{1,5})\+rank")
_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,252}[A-Za-z0-9_])?")
_IPV6 = re.compile(r"[0-9A-Fa-f:.]{2,45}")
_PORT_MAX = 65535


class SourceConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One SUB socket: of a publisher that listens, or for all publishers that dial.

    Raises ConfigError for what does not fit together, with its name.
    """

    endpoint: str
    """Of ZeroMQ: tcp://HOST:PORT, tcp://[IPV6]:PORT or ipc://PATH."""
    bind: bool = False
    """Listen at `endpoint` for publishers that dial; else connect to one publisher."""
    replay_endpoint: str | None = None
    """Of the replay socket, if there is one. For a socket that listens a template, in which
    `{host}` is the pod id without its port, `{pod}` the pod id, `{rank}` the data-parallel rank, and
    `{5558+rank}` the port of each rank: tcp://{host}:{5558+rank}."""
    replay_endpoints: dict[str, str] = {}
    """Pod id -> endpoint or template, for a socket that listens. Other pods have `replay_endpoint`."""
    pod: str | None = None
    """Pod id where the topic has none; at most one publisher may be without."""
    model: str | None = None
    """Model where the topic has none."""
    rank: int | None = None
    """Data-parallel rank where the events have none."""
    overrides_topic: bool = False
    """`pod` and `model` count also where topics say something else, so that a publisher can speak for no
    pod but its own. Only for a socket that connects."""
    curve: CurveConfig | None = None
    """Encrypt and authenticate. None: plain."""

    def __post_init__(self) -> None:
        if not self.bind and self.replay_endpoints:
            raise ConfigError("replay_endpoints: expected none without bind, where there is one publisher")
        if self.curve is not None and self.bind and not (self.curve.secret_key and self.curve.client_keys):
            raise ConfigError("curve: expected secret_key and client_keys, to listen for publishers")
        if self.curve is not None and not self.bind and self.curve.server_key is None:
            raise ConfigError("curve.server_key: expected the publisher's key, to connect; got None")
        if self.overrides_topic and (self.bind or self.pod is None):
            raise ConfigError("overrides_topic: expected a pod, and no bind, for a publisher that is known")
        if self.rank is not None and (isinstance(self.rank, bool) or not 0 <= self.rank <= _PORT_MAX):
            raise ConfigError(f"rank: expected 0 to {_PORT_MAX}, got {self.rank!r}")
        for name, value in (("pod", self.pod), ("model", self.model)):
            if value is not None and not value:
                raise ConfigError(f"{name}: expected a name or None, got {value!r}")
        for template in (self.replay_endpoint, *self.replay_endpoints.values()):
            if template is not None:
                self._check(template)

    def _check(self, template: str) -> None:
        for name in _PLACEHOLDER.findall(template):
            known = name in ("host", "pod", "rank") or _RAISED_PORT.fullmatch(name)
            if not self.bind or not known:
                expected = "{host}, {pod}, {rank} or {PORT+rank}" if self.bind else "no placeholder"
                raise ConfigError(
                    f"replay_endpoint: expected {expected}, got {{{name}}} in {template!r}"
                    + ("" if self.bind else " (only with bind)")
                )

    @property
    def has_replay(self) -> bool:
        """Whether any of its publishers has a replay socket."""
        return self.replay_endpoint is not None or bool(self.replay_endpoints)

    def has_replay_of(self, pod: str, rank: int) -> bool:
        """Whether this worker has a replay socket."""
        return self.replay_endpoint is not None or pod in self.replay_endpoints

    def replay_endpoint_of(self, pod: str | None, rank: int | None) -> str:
        """Where this worker's past can be asked for; pod and rank None: not known.

        Raises InputError when there is no such place, or the pod id is no name of a host.
        """
        template = self.replay_endpoints.get(pod, self.replay_endpoint) if pod else self.replay_endpoint
        if template is None:
            raise InputError(f"replay: expected an endpoint for pod {pod!r}, got none")
        return _PLACEHOLDER.sub(lambda found: _filled(found[1], pod, rank or 0), template)


def _filled(name: str, pod: str | None, rank: int) -> str:
    if name == "rank":
        return str(rank)
    if raised := _RAISED_PORT.fullmatch(name):
        port = int(raised[1]) + rank
        if not 0 < port <= _PORT_MAX:
            raise InputError(f"replay port: expected 1 to {_PORT_MAX}, got {port} for rank {rank}")
        return str(port)
    if name == "host":
        return _host(pod or "")
    return _checked(pod or "", pod or "")


def _host(pod: str) -> str:
    """A pod id is an IP, IP:port or a name; whoever publishes chooses it, so it may not name more."""
    bare = pod.startswith("[") is False and pod.count(":") > 1
    if bare:
        return f"[{_checked(pod, pod, ipv6=True)}]"
    if pod.startswith("["):
        return f"[{_checked(pod[1:].partition(']')[0], pod, ipv6=True)}]"
    return _checked(pod.partition(":")[0], pod)


def _checked(host: str, pod: str, *, ipv6: bool = False) -> str:
    if not (_IPV6 if ipv6 else _NAME).fullmatch(host):
        raise InputError(f"replay: expected a pod id that names a host, got {pod!r}")
    return host
