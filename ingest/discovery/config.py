"""What looks for pods, and when what it finds counts. Every field has a unit and a default."""

from __future__ import annotations

from typing import Literal, Union

import msgspec

from kvatlas.index.errors import ConfigError
from kvatlas.ingest.discovery.entries import PodEntry

_PORT_MAX = 65535


def _positive(struct: msgspec.Struct, *names: str) -> None:
    for name in names:
        value = getattr(struct, name)
        if isinstance(value, bool) or not 0 < value <= 1 << 40:
            raise ConfigError(f"{name}: expected a number above 0, got {value!r}")


def _at_least_zero(struct: msgspec.Struct, *names: str) -> None:
    for name in names:
        value = getattr(struct, name)
        if isinstance(value, bool) or not 0 <= value <= 1 << 40:
            raise ConfigError(f"{name}: expected a number of at least 0, got {value!r}")


def _port(struct: msgspec.Struct, name: str, least: int = 1) -> None:
    value = getattr(struct, name)
    if isinstance(value, bool) or not least <= value <= _PORT_MAX:
        raise ConfigError(f"{name}: expected {least} to {_PORT_MAX}, got {value!r}")


class StaticWatchConfig(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="static"
):
    """Pods that are written down here and never change."""

    name: str = "static"
    """Of the watch, in what is shown."""
    pods: tuple[PodEntry, ...] = ()
    """The pods."""


class FileWatchConfig(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="file"
):
    """Pods in a YAML or JSON file, which is read again when it changes."""

    path: str
    """Of the file: `pods:` with a list of entries, or the list alone."""
    name: str = "file"
    """Of the watch, in what is shown."""
    look_every_s: float = 1.0
    """Seconds between two looks at the file's size and time."""
    settle_s: float = 0.2
    """Seconds that the file must have stayed the same before it is read: someone may be writing it."""
    file_bytes_max: int = 16 << 20
    """Bytes of the file; a longer one is not read."""

    def __post_init__(self) -> None:
        _positive(self, "look_every_s", "file_bytes_max")
        _at_least_zero(self, "settle_s")


class HttpWatchConfig(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="http"
):
    """A small server where pods register themselves: POST /pods, DELETE /pods/ID, GET /pods."""

    name: str = "http"
    """Of the watch, in what is shown."""
    host: str = "127.0.0.1"
    """Address to listen at."""
    port: int = 8480
    """TCP port to listen at; 0: one that the system chooses."""
    token: str | None = None
    """Bearer token that every request must carry. None, and no `token_file`: nobody is asked, which is
    for loopback and closed networks only."""
    token_file: str | None = None
    """File that holds the token; read at each request, so that it can be replaced."""
    ttl_s: float = 60.0
    """Seconds after which a registration ends that is not repeated; 0: it never ends. A registration
    may ask for less or more."""
    ttl_s_max: float = 86400.0
    """The most that it may ask for, in seconds."""
    body_bytes_max: int = 1 << 20
    """Bytes of a request's body."""
    connections_max: int = 32
    """Requests at one time; further ones are closed."""
    request_s_max: float = 10.0
    """Seconds from a connection to its answer; slower ones are closed."""

    def __post_init__(self) -> None:
        _positive(self, "ttl_s_max", "body_bytes_max", "connections_max", "request_s_max")
        _at_least_zero(self, "ttl_s")
        _port(self, "port", 0)
        if self.token is not None and self.token_file is not None:
            raise ConfigError("token: expected token or token_file, got both")
        if self.token is not None and not self.token.isascii():
            raise ConfigError("token: expected ASCII, got other characters")

    def __repr__(self) -> str:
        """Without the token."""
        secret = None if self.token is None else "..."
        return f"HttpWatchConfig(host={self.host!r}, port={self.port!r}, token={secret!r})"


class KubernetesWatchConfig(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="kubernetes"
):
    """Pods of Kubernetes that carry a label, run, are ready and have an address."""

    name: str = "kubernetes"
    """Of the watch, in what is shown."""
    namespace: str | None = None
    """Namespace to look in. None: our own inside a cluster, else the one of the kubeconfig's context."""
    all_namespaces: bool = False
    """Look in all namespaces, which needs a ClusterRole."""
    label_selector: str = "llm-d.ai/inference-serving=true"
    """Of the pods that count."""
    event_port: int = 5557
    """TCP port of rank 0's events; annotation `kvatlas/event-port` overrides it for a pod."""
    replay_port: int | None = 5558
    """TCP port of rank 0's replay socket, None: there is none; annotation `kvatlas/replay-port`."""
    ask_port: int | None = None
    """TCP port of the server's HTTP, to ask it for its sources instead of taking the ports above;
    annotation `kvatlas/ask-port`."""
    ranks: int = 1
    """Data-parallel ranks in a pod, 1 to 256; annotation `kvatlas/ranks`."""
    model_label: str = "llm-d.ai/model"
    """Label, or annotation, that names the pod's model; annotation `kvatlas/model` goes before it.
    None of them: the model is what topics say."""
    pod_id: Literal["name", "namespace/name", "ip"] = "name"
    """What its id is, and scores name it by. Choose `ip` where routers know pods by address."""
    address_family: Literal["first", "ipv4", "ipv6"] = "first"
    """Which address of a pod with several; first: the one that Kubernetes prefers."""
    kubeconfig: str | None = None
    """File that says how to reach the API. None: inside a cluster its service account, else the
    default file."""
    context: str | None = None
    """Context in the kubeconfig; None: its current one."""
    objects_max: int = 65_536
    """Pods with the label, ready or not; further ones are counted and left out."""
    page_pods: int = 500
    """Pods in one answer of a list; larger lists come in pages."""
    watch_s: float = 60.0
    """Seconds that one watch lasts; it is continued where it ended."""
    list_every_s: float = 600.0
    """Seconds after which everything is listed again, whatever watches said."""
    request_s_max: float = 15.0
    """Seconds without a byte after which a request has failed; a watch has `watch_s` in addition."""
    retry_s_min: float = 0.5
    """Seconds before a failed request is made again; doubled each time."""
    retry_s_max: float = 30.0
    """The longest such pause, in seconds."""
    answer_bytes_max: int = 256 << 20
    """Bytes of one page, or of one event of a watch."""

    def __post_init__(self) -> None:
        _positive(self, "page_pods", "watch_s", "list_every_s", "request_s_max")
        _positive(self, "retry_s_min", "retry_s_max", "answer_bytes_max", "objects_max")
        _port(self, "event_port")
        for name in ("replay_port", "ask_port"):
            if getattr(self, name) is not None:
                _port(self, name)
        if not 1 <= self.ranks <= 256:
            raise ConfigError(f"ranks: expected 1 to 256, got {self.ranks!r}")
        if self.all_namespaces and self.namespace is not None:
            raise ConfigError("namespace: expected none with all_namespaces")
        if self.all_namespaces and self.pod_id == "name":
            raise ConfigError("pod_id: expected namespace/name or ip with all_namespaces, got 'name'")


WatchConfig = Union[StaticWatchConfig, FileWatchConfig, HttpWatchConfig, KubernetesWatchConfig]  # noqa: UP007
"""Of any kind; in files the field `kind` tells which."""


class DiscoveryLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a pod that was found is followed, and when one that left is cleared.

    Raises ConfigError for values out of range, with their name.
    """

    grace_s: float = 30.0
    """Seconds from a pod's leaving until it is cleared; one that comes back as it was costs nothing."""
    flap_admissions: int = 4
    """Times that a pod may be followed anew, or elsewhere, within `flap_window_s`; after that it is held."""
    flap_window_s: float = 600.0
    """Seconds that such a time counts."""
    hold_s_min: float = 10.0
    """Seconds that a held pod must stay as it is before it is followed; doubled each time."""
    hold_s_max: float = 300.0
    """The longest such time, in seconds."""
    pods_max: int = 16_384
    """Pods at one time, and pods that one watch may name; further ones are counted and left out."""
    asks_at_once: int = 8
    """Servers asked for their sources at one time."""
    ask_s_max: float = 5.0
    """Seconds of one such question."""
    ask_bytes_max: int = 1 << 20
    """Bytes of its answer."""
    ask_every_s: float = 60.0
    """Seconds after which a server that has answered is asked again."""
    ask_retry_s_min: float = 1.0
    """Seconds after which one that has not is asked again; doubled each time."""
    ask_retry_s_max: float = 30.0
    """The longest such pause, in seconds."""

    def __post_init__(self) -> None:
        _at_least_zero(self, "grace_s")
        _positive(self, *(name for name in self.__struct_fields__ if name != "grace_s"))
        for low, high in (("hold_s_min", "hold_s_max"), ("ask_retry_s_min", "ask_retry_s_max")):
            if getattr(self, low) > getattr(self, high):
                raise ConfigError(f"{low}: expected at most {high}, got {getattr(self, low)!r}")


class DiscoveryConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that looks for pods. Raises ConfigError when two watches have one name."""

    watches: tuple[WatchConfig, ...] = ()
    """In the order in which they win when two name the same pod; pods registered by hand go first."""
    limits: DiscoveryLimits = DiscoveryLimits()
    """Grace, damping, bounds."""

    def __post_init__(self) -> None:
        names = [watch.name for watch in self.watches]
        for name in names:
            if names.count(name) > 1 or name == "registered":
                raise ConfigError(f"watches: expected a name of its own for each, got {name!r} again")
