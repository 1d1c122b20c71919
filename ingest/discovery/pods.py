"""What discovery finds: pods, where their events come from, and what looks for them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Protocol

import msgspec

from kvatlas.index.choosing.serving import Serving
from kvatlas.index.errors import DecodeError, InputError
from kvatlas.ingest.announcers import announced_store
from kvatlas.ingest.config import AtlasConfig, ModelConfig, PodConfig
from kvatlas.ingest.sockets.curve import CurveConfig
from kvatlas.ingest.sockets.source_config import SourceConfig

POD_CHARACTERS_MAX = 253
NAME_CHARACTERS_MAX = 1024
ENDPOINT_CHARACTERS_MAX = 512
URL_CHARACTERS_MAX = 2048
SOURCES_MAX = 256
STORES_MAX = 64
LABELS_MAX = 64
ADAPTERS_MAX = 1024
_PORT_MAX = 65535
_SERVING_RANGES = (
    ("ranks", 1, SOURCES_MAX),
    ("kv_tokens_max", 1, 1 << 40),
    ("batch_tokens_max", 1, 1 << 40),
    ("requests_max", 1, 1 << 30),
    ("prefill_tokens_per_s", 1e-3, 1e12),
)
_TCP = re.compile(r"tcp://([^\s/]+):(\d{1,5}|\*)")
_IPC = re.compile(r"ipc://\S+")
_URL = re.compile(r"https?://[^\s/?#@]+(/[^\s?#]*)?")


class DiscoveredPod(msgspec.Struct, frozen=True, kw_only=True):
    """A pod that should be followed, and what is known of it beforehand."""

    pod: str
    """Its id."""
    sources: tuple[SourceConfig, ...] = ()
    """Where its events come from, one for each data-parallel rank. Empty while `url` is asked, and for a
    pod that tells of none but can be sent requests (`serving.url`)."""
    url: str | None = None
    """http://HOST:PORT of a server that tells its sources itself (GET /kv_event_sources)."""
    block_size_tokens: int | None = None
    """Tokens in a block of the index for its model, where that is known."""
    settings: PodConfig = PodConfig()
    """Its model, stores, cache size and the like."""
    node: str | None = None
    """Where it runs: an IP address or Ray's node id; subscribers are placed near it."""
    labels: dict[str, str] = {}
    """Whatever its discoverer knows; filters of choices look at them."""
    serving: Serving = Serving()
    """How requests reach it, and what it can take."""
    found_by: str = ""
    """Name of the watch."""

    @property
    def model(self) -> str | None:
        return self.settings.model

    @property
    def stores(self) -> tuple[str, ...]:
        return self.settings.stores

    @property
    def announces(self) -> str | None:
        """The store whose files it announces, "": its model's own; None: it is a server."""
        return announced_store(self.pod, self.settings)

    def draining(self) -> DiscoveredPod:
        """The same, but it gets no new requests."""
        serving = msgspec.structs.replace(self.serving, is_draining=True)
        return msgspec.structs.replace(self, serving=serving)

    def feeds_as(self, other: DiscoveredPod) -> bool:
        """Whether following either is the same: same sources, settings and block size."""
        return (
            self.sources == other.sources
            and self.settings == other.settings
            and self.block_size_tokens == other.block_size_tokens
        )


class WatchStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """How one watch is."""

    name: str
    pods: int
    """That it knows now."""
    failing: str | None = None
    """Why what it knows may be old; None: it is current."""
    said: str = ""
    """Its last complaint about a single pod."""
    counts: dict[str, int] = {}
    """Counters of its own kind (docs/discovery.md)."""


class PodSink(Protocol):
    """Takes what one watch finds; from one thread at a time."""

    def replace(self, pods: Iterable[DiscoveredPod]) -> None:
        """These are all that there are now."""

    def change(self, pods: Iterable[DiscoveredPod], left: Iterable[str] = ()) -> None:
        """These are new or have changed; of those that left, the ids."""


class PodWatch(Protocol):
    """Something that knows pods. It never raises into its sink, and when it cannot see it says nothing:
    what was known stays. What finds Ray Serve's replicas, or anything else, implements this."""

    @property
    def name(self) -> str: ...
    def start(self, sink: PodSink) -> None:
        """Begin to tell `sink`. Raises ConfigError for what can never work, such as a taken port."""

    def stop(self) -> None:
        """Tell nothing any more, and end. Twice is fine."""

    def statistics(self) -> WatchStatistics: ...


def check_pod(pod: DiscoveredPod) -> None:
    """Raises InputError or ConfigError, with what was expected, for a pod that nobody could follow."""
    check_name("pod", pod.pod, POD_CHARACTERS_MAX)
    if pod.url is not None:
        _expect("url", pod.url, is_url(pod.url), "http://HOST[:PORT][/PATH] or https://")
    elif not pod.sources and (pod.serving.url is None or pod.model is None):
        raise InputError(
            f"pods[{pod.pod!r}].sources: expected at least one, or a url, or serving.url and a model"
        )
    check_serving(pod.serving)
    _expect_count("sources", len(pod.sources), SOURCES_MAX)
    _expect_count("labels", len(pod.labels), LABELS_MAX)
    _expect_count("settings.stores", len(pod.stores), STORES_MAX)
    for name, text in (("settings.model", pod.model), ("node", pod.node)):
        if text is not None:
            check_name(name, text)
    for text in (*pod.stores, *pod.labels, *filter(None, pod.labels.values())):
        check_name("settings.stores, labels", text)
    for source in pod.sources:
        check_source(source)
    if len({source.endpoint for source in pod.sources}) < len(pod.sources):
        raise InputError(f"pods[{pod.pod!r}].sources: expected each endpoint once")
    AtlasConfig(
        pods={pod.pod: pod.settings},
        models={"of the pod": ModelConfig(block_size_tokens=pod.block_size_tokens)},
    )


def check_serving(serving: Serving) -> None:
    """Raises InputError for what requests could not be sent to."""
    if serving.url is not None:
        _expect("serving.url", serving.url, is_url(serving.url), "http://HOST[:PORT][/PATH] or https://")
    _expect_count("serving.adapters", len(serving.adapters or ()), ADAPTERS_MAX)
    for adapter in serving.adapters or ():
        check_name("serving.adapters", adapter)
    for name, low, high in _SERVING_RANGES:
        value = getattr(serving, name)
        if value is not None and (isinstance(value, bool) or not low <= value <= high):
            raise InputError(f"serving.{name}: expected {low} to {high}, got {value!r}")


def check_source(source: SourceConfig) -> None:
    """Raises InputError for endpoints that ZeroMQ could not use, or for names too long to keep."""
    check_endpoint("sources.endpoint", source.endpoint, bind=source.bind)
    for template in (source.replay_endpoint, *source.replay_endpoints.values()):
        if template is not None and not source.bind:
            check_endpoint("sources.replay_endpoint", template)
        elif template is not None:
            check_name("sources.replay_endpoint", template, ENDPOINT_CHARACTERS_MAX)
    for name, text in (("sources.pod", source.pod), ("sources.model", source.model)):
        if text is not None:
            check_name(name, text)


def check_endpoint(path: str, endpoint: str, *, bind: bool = False) -> None:
    """Raises InputError when ZeroMQ could not connect to it, or bind it."""
    expected = "tcp://HOST:PORT, tcp://[IPV6]:PORT or ipc://PATH"
    check_name(path, endpoint, ENDPOINT_CHARACTERS_MAX)
    if _IPC.fullmatch(endpoint):
        return
    found = _TCP.fullmatch(endpoint)
    _expect(path, endpoint, found is not None, expected)
    assert found is not None
    host, port = found.groups()
    if bind:
        _expect(path, endpoint, port == "*" or int(port) <= _PORT_MAX, expected)
        return
    is_host = "*" not in host and (host.count(":") == 0 or (host[0] == "[" and host[-1] == "]"))
    _expect(path, endpoint, is_host and port != "*" and 0 < int(port) <= _PORT_MAX, expected)


def check_name(path: str, text: str, characters_max: int = NAME_CHARACTERS_MAX) -> None:
    """Raises InputError for a text that is empty, too long, or holds control or odd space characters."""
    good = 0 < len(text) <= characters_max and text.isprintable()
    if not (good and text == text.strip()):
        expected = f"1 to {characters_max} printable characters without spaces around them"
        raise InputError(f"{path}: expected {expected}, got {text[:80]!r}")


def is_url(text: str) -> bool:
    """Whether it is http(s)://HOST[:PORT][/PATH], without user, query and fragment."""
    return len(text) <= URL_CHARACTERS_MAX and text.isprintable() and bool(_URL.fullmatch(text))


def encode_pod(pod: DiscoveredPod) -> bytes:
    """For other processes, also of other releases."""
    return msgspec.msgpack.encode(pod)


def decode_pod(data: bytes) -> DiscoveredPod:
    """Of `encode_pod`; fields that a newer release has added are left out.

    Raises DecodeError for other bytes.
    """
    try:
        raw = msgspec.msgpack.decode(data, type=dict[str, Any])
        raw["settings"] = _known(raw.get("settings", {}), PodConfig)
        raw["serving"] = _known(raw.get("serving", {}), Serving)
        raw["sources"] = [_known(source, SourceConfig) for source in raw.get("sources", ())]
        for source in raw["sources"]:
            if source.get("curve") is not None:
                source["curve"] = _known(source["curve"], CurveConfig)
        return msgspec.convert(raw, DiscoveredPod, strict=True)
    except (msgspec.MsgspecError, AttributeError, TypeError) as error:
        raise DecodeError(f"pod: expected the bytes of one, {error}") from None


def _known(raw: dict[str, Any], kind: type[msgspec.Struct]) -> dict[str, Any]:
    return {name: value for name, value in raw.items() if name in kind.__struct_fields__}


def _expect(path: str, value: str, good: bool, expected: str) -> None:
    if not good:
        raise InputError(f"{path}: expected {expected}, got {value[:80]!r}")


def _expect_count(path: str, count: int, most: int) -> None:
    if count > most:
        raise InputError(f"{path}: expected at most {most}, got {count}")
