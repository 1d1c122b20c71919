"""The gateway: how many, where it listens, who may ask, and its bounds."""

from __future__ import annotations

import msgspec

from kvatlas.cluster.config.actors_config import Resources
from kvatlas.cluster.config.ranges import (
    Count,
    GatewayCount,
    Port,
    Rate,
    RequestRoom,
    Seconds,
    check_fields,
)
from kvatlas.index.errors import ConfigError
from kvatlas.tokenize.service.addresses import parse_address


class GatewayLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What callers may cost one replica."""

    body_bytes_max: RequestRoom = 8 << 20
    """Of a request."""
    bodies_bytes_max: RequestRoom = 256 << 20
    """Of all requests that are read or answered at one time; more are refused as overloaded."""
    body_s_max: Seconds = 10.0
    """Time in which a body must have come."""
    answer_s_max: Seconds = 60.0
    """Time that an answer may take; after it the caller is told."""
    containers_max: Count = 1 << 18
    """Objects and lists in a JSON body."""
    requests_per_s: Rate = 0.0
    """Of one token, or of one address where there are no tokens. 0: any number."""
    burst_requests: Count = 100
    """Requests that may come at once before `requests_per_s` counts."""
    callers_max: Count = 65_536
    """Callers whose rate is remembered; the one unheard longest is forgotten."""

    def __post_init__(self) -> None:
        check_fields(self)


class GrpcConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The gateway over gRPC: a port of each replica's own, beside Serve's proxies (docs/gateway.md)."""

    listen: tuple[str, ...] = ()
    """HOST:PORT or :PORT (loopback); port 0: any that is free. Replicas on one node share a fixed port.
    Empty: no gRPC."""
    threads: Count = 8
    """Calls that one replica works on at a time."""
    waiting_max: Count = 256
    """Calls that wait; more are refused with RESOURCE_EXHAUSTED."""
    tls_certificate_file: str | None = None
    """PEM, on the nodes of the replicas. None: no TLS."""
    tls_key_file: str | None = None
    """PEM, of the certificate."""
    tls_client_ca_file: str | None = None
    """PEM: clients must have a certificate of one of these authorities."""
    reflection: bool = True
    """Whether clients may ask what calls there are."""

    def __post_init__(self) -> None:
        check_fields(self)
        for place, address in enumerate(self.listen):
            parse_address(address, f"listen[{place}]")
        if (self.tls_certificate_file is None) != (self.tls_key_file is None):
            raise ConfigError("tls_key_file: expected it together with tls_certificate_file, got one of them")
        if self.tls_client_ca_file is not None and self.tls_certificate_file is None:
            raise ConfigError("tls_client_ca_file: expected tls_certificate_file beside it, got none")


class GatewayConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Scores, choices and receipts over HTTP and gRPC, as an application on Ray Serve."""

    replicas: GatewayCount = 0
    """Processes of the gateway. 0: there is none. `kvatlas up --gateway` means 1."""
    route_prefix: str = "/"
    """Path below which Serve's proxies find it: begins with a slash and ends with none, but for `/`."""
    host: str = "127.0.0.1"
    """Where Serve's proxies listen, if Serve does not run yet. 0.0.0.0 for other machines: then set
    `tokens_file`."""
    port: Port = 8000
    """Of Serve's proxies, if Serve does not run yet."""
    requests_max: Count = 256
    """Requests that one replica answers at a time; more wait in Serve's proxies."""
    tokens_file: str | None = None
    """File on the nodes of the replicas, a line for each caller: the tenant's name, a space, its bearer
    token. Read again when it changes. None: anybody may ask, and a cache salt is the tenant."""
    grpc: GrpcConfig = GrpcConfig()
    limits: GatewayLimits = GatewayLimits()
    resources: Resources = Resources(cpus=0.1)
    """Of each replica."""

    def __post_init__(self) -> None:
        check_fields(self)
        path = self.route_prefix
        if path != "/" and (not path.startswith("/") or path.endswith("/") or set(path) & set("?#{} ")):
            raise ConfigError(f"route_prefix: expected / or a path such as /kvatlas, got {path!r}")
