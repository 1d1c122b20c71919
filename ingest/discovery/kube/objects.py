"""What the Kubernetes API says of pods, as far as it counts here, and which pods count."""

from __future__ import annotations

import ipaddress
from typing import cast, get_args

import msgspec

from kvatlas.index.choosing.serving import Role, Serving
from kvatlas.index.errors import InputError
from kvatlas.ingest.config import PodConfig
from kvatlas.ingest.discovery.config import KubernetesWatchConfig
from kvatlas.ingest.discovery.entries import rank_sources
from kvatlas.ingest.discovery.pods import LABELS_MAX, DiscoveredPod, check_pod

_RANKS_MAX = 256
_PORT_MAX = 65535
_TOKENS_MAX = 999_999_999


class Metadata(msgspec.Struct, frozen=True, rename="camel"):
    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    deletion_timestamp: str | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None


class Condition(msgspec.Struct, frozen=True):
    type: str = ""
    status: str = ""


class Address(msgspec.Struct, frozen=True):
    ip: str = ""


class Status(msgspec.Struct, frozen=True):
    phase: str = ""
    conditions: tuple[Condition, ...] | None = None
    pod_ip: str | None = msgspec.field(name="podIP", default=None)
    pod_ips: tuple[Address, ...] | None = msgspec.field(name="podIPs", default=None)
    host_ip: str | None = msgspec.field(name="hostIP", default=None)


class KubePod(msgspec.Struct, frozen=True):
    """A v1.Pod."""

    metadata: Metadata = Metadata()
    status: Status = Status()

    @property
    def key(self) -> str:
        """One at a time has it; another incarnation has another uid."""
        return f"{self.metadata.namespace}/{self.metadata.name}"

    @property
    def counts(self) -> bool:
        """Whether it runs, is ready, has an address and is not being deleted."""
        return (
            self.metadata.deletion_timestamp is None
            and self.status.phase == "Running"
            and any(one.type == "Ready" and one.status == "True" for one in self.status.conditions or ())
            and bool(self.addresses)
        )

    @property
    def addresses(self) -> tuple[str, ...]:
        """Its IPs; the one that Kubernetes prefers first."""
        listed = tuple(one.ip for one in self.status.pod_ips or () if one.ip)
        return listed or ((self.status.pod_ip,) if self.status.pod_ip else ())


class ListMetadata(msgspec.Struct, frozen=True, rename="camel"):
    resource_version: str = ""
    continue_: str | None = msgspec.field(name="continue", default=None)


class KubePodList(msgspec.Struct, frozen=True):
    """A page of a v1.PodList."""

    metadata: ListMetadata = ListMetadata()
    items: tuple[KubePod, ...] | None = None


class Failure(msgspec.Struct, frozen=True):
    """A v1.Status."""

    code: int = 0
    reason: str = ""
    message: str = ""


class WatchEvent(msgspec.Struct, frozen=True):
    """One line of a watch."""

    type: str
    """ADDED, MODIFIED, DELETED, BOOKMARK or ERROR."""
    object: msgspec.Raw = msgspec.Raw(b"{}")


def as_discovered(pod: KubePod, config: KubernetesWatchConfig) -> DiscoveredPod:
    """What to follow of a pod that counts. Raises InputError for annotations that cannot be meant."""
    notes = _Notes(pod)
    address = _address(pod, config.address_family)
    pod_id = {"name": pod.metadata.name, "namespace/name": pod.key, "ip": address}[config.pod_id]
    model = notes.text("model") or notes.labels.get(config.model_label) or notes.all.get(config.model_label)
    stores = tuple(one for one in (notes.text("stores") or "").split(",") if one)
    host = f"[{address}]" if ":" in address else address
    ask_port = notes.port("ask-port", config.ask_port)
    event_port = notes.port("event-port", config.event_port)
    replay_port = notes.port("replay-port", config.replay_port)
    ranks = notes.number("ranks", config.ranks, _RANKS_MAX)
    assert event_port is not None and ranks is not None
    found = DiscoveredPod(
        pod=pod_id,
        sources=()
        if ask_port is not None
        else rank_sources(
            pod_id,
            f"tcp://{host}:{event_port}",
            None if replay_port is None else f"tcp://{host}:{replay_port}",
            ranks,
            model,
        ),
        url=None if ask_port is None else f"http://{host}:{ask_port}",
        block_size_tokens=notes.number("block-size-tokens", None, 4096),
        settings=PodConfig(
            model=model,
            stores=stores,
            gpu_blocks=notes.number("gpu-blocks", None, (1 << 24) - 1),
            offload_chunk_blocks=notes.number("offload-chunk-blocks", 1, 4096) or 1,
            announces=notes.text("announces") == "true",
        ),
        node=pod.status.host_ip,
        serving=_serving(notes, host, ranks, ask_port),
        labels=dict(sorted(notes.labels.items())[:LABELS_MAX]),
        found_by=config.name,
    )
    check_pod(found)
    return found


def _serving(notes: _Notes, host: str, ranks: int, ask_port: int | None) -> Serving:
    """Of its annotations. A server that is asked for its sources serves at the same port."""
    role = notes.text("role") or "both"
    if role not in get_args(Role):
        raise InputError(f"annotation kvatlas/role: expected one of {get_args(Role)}, got {role[:40]!r}")
    port = notes.port("serving-port", ask_port)
    adapters = notes.text("adapters")
    return Serving(
        url=None if port is None else f"http://{host}:{port}",
        role=cast(Role, role),
        adapters=None if adapters is None else tuple(filter(None, adapters.split(","))),
        ranks=ranks,
        kv_tokens_max=notes.number("kv-tokens-max", None, _TOKENS_MAX),
        batch_tokens_max=notes.number("batch-tokens-max", None, _TOKENS_MAX),
        requests_max=notes.number("requests-max", None, _TOKENS_MAX),
        is_draining=notes.text("draining") == "true",
    )


class _Notes:
    """Labels and annotations; ours begin with `kvatlas/`."""

    def __init__(self, pod: KubePod) -> None:
        self.labels = {name: text for name, text in (pod.metadata.labels or {}).items() if text}
        self.all = pod.metadata.annotations or {}

    def text(self, name: str) -> str | None:
        return self.all.get(f"kvatlas/{name}") or None

    def port(self, name: str, default: int | None) -> int | None:
        """Annotation `none`: no port; only where there may be none."""
        if self.text(name) == "none" and name != "event-port":
            return None
        return self.number(name, default, _PORT_MAX)

    def number(self, name: str, default: int | None, most: int) -> int | None:
        text = self.text(name)
        if text is None:
            return default
        if not (text.isascii() and text.isdecimal() and len(text) < 10 and 1 <= int(text) <= most):
            raise InputError(f"annotation kvatlas/{name}: expected 1 to {most}, got {text[:40]!r}")
        return int(text)


def _address(pod: KubePod, family: str) -> str:
    """Raises InputError when it has none of that family."""
    for text in pod.addresses:
        try:
            address = ipaddress.ip_address("" if "%" in text else text)
        except ValueError:
            raise InputError(f"podIPs: expected IP addresses without a scope, got {text[:60]!r}") from None
        if family in ("first", f"ipv{address.version}"):
            return str(address)
    raise InputError(f"podIPs: expected an {family} address, got {', '.join(pod.addresses)[:120]}")
