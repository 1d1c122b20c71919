"""Where tokenizers come from, and their bounds."""

from __future__ import annotations

import math
from typing import Literal, get_args

import msgspec

from kvatlas.index.errors import ConfigError

Source = Literal["models", "folders", "cache", "hub", "sidecar", "pods"]


def _check_positive(struct: msgspec.Struct, path: str, names: tuple[str, ...]) -> None:
    for name in names:
        value = getattr(struct, name)
        if isinstance(value, bool) or not 0 < value < math.inf:
            raise ConfigError(f"{path}{name}: expected a number above 0, got {value!r}")


class HubConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The Hugging Face hub."""

    allowed: bool = False
    """Whether files that are nowhere on this machine are downloaded."""
    token_file: str | None = None
    """File that holds the access token. None: HF_TOKEN, or what `hf auth login` has left."""
    cache_folder: str | None = None
    """None: as the hub's own library chooses (HF_HUB_CACHE, HF_HOME)."""
    revision: str | None = None
    """Branch, tag or commit. None: the default branch."""
    timeout_s: float = 120.0
    """For the files of one model. What takes longer goes on, for the next who asks."""

    def __post_init__(self) -> None:
        _check_positive(self, "hub.", ("timeout_s",))


class SidecarConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A tokenization service over gRPC, of kvatlas or of llm-d."""

    address: str | None = None
    """unix:PATH or HOST:PORT. None: there is none."""
    timeout_s: float = 5.0
    """For one call."""
    message_bytes_max: int = 64 << 20
    """Of a request and of an answer, 1 kB to 1 GB."""
    tls_ca_file: str | None = None
    """Certificates of the authorities that the service's own must come from. None: no TLS."""
    tls_certificate_file: str | None = None
    """Of this client, where the service asks for one."""
    tls_key_file: str | None = None
    """Of that certificate."""

    def __post_init__(self) -> None:
        _check_positive(self, "sidecar.", ("timeout_s",))
        if not 1024 <= self.message_bytes_max <= 1 << 30:
            raise ConfigError(
                f"sidecar.message_bytes_max: expected 1024 to {1 << 30}, got {self.message_bytes_max!r}"
            )


class TokenizeLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one request may cost."""

    text_bytes_max: int = 8 << 20
    """UTF-8 bytes of a prompt, or of a rendered chat. While it is encoded, a stretch of it that has neither
    an added token nor an end of a line takes up to 300 bytes of memory a byte, and a second for each MB."""
    messages_max: int = 20_000
    """Messages of a chat."""
    depth_max: int = 64
    """Nesting of messages, tools, documents and template arguments."""
    render_s_max: float = 2.0
    """Time that a chat template may take."""
    template_bytes_max: int = 1 << 20
    """Of a template's source."""

    def __post_init__(self) -> None:
        _check_positive(self, "limits.", self.__struct_fields__)


class TokenizeConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Tokenizers of an embedded atlas, a client, a service. Raises ConfigError with the value's path."""

    models: dict[str, str] = {}
    """By served model name: a folder, a `tokenizer.json`, or a name that the other sources know."""
    folders: tuple[str, ...] = ()
    """Folders searched for `tokenizer.json`; the path below them is the model's name. Caches of the hub
    in them are understood."""
    hub: HubConfig = HubConfig()
    sidecar: SidecarConfig = SidecarConfig()
    pods: dict[str, str] = {}
    """By served model name: http://HOST:PORT of a server whose `/tokenize` is asked."""
    pod_timeout_s: float = 10.0
    """For one such call."""
    order: tuple[Source, ...] = ("models", "folders", "cache", "hub", "sidecar", "pods")
    """Sources in the order in which they are tried; one that is not named is not used. `cache`: what
    the hub's cache on this machine holds already."""
    request_templates: bool = False
    """Whether a request may bring a chat template of its own."""
    loaded_max: int = 16
    """Tokenizers held at a time; the one not used for longest goes first."""
    look_s: float = 5.0
    """Files are looked at for changes at most so often, and a model that could not be loaded is tried
    again after that."""
    memo_bytes_max: int = 256 << 20
    """Of the segment memo of each tokenizer. 0: no memo."""
    check_share: float = 1 / 1024
    """Share of answers of the memo that are compared with a plain encoding."""
    limits: TokenizeLimits = TokenizeLimits()

    def __post_init__(self) -> None:
        _check_positive(self, "", ("pod_timeout_s", "loaded_max"))
        for name in ("look_s", "memo_bytes_max"):
            if not (0 <= getattr(self, name) < math.inf):
                raise ConfigError(f"{name}: expected a number of at least 0, got {getattr(self, name)!r}")
        if not 0.0 <= self.check_share <= 1.0:
            raise ConfigError(f"check_share: expected 0 to 1, got {self.check_share!r}")
        for source in self.order:
            if source not in get_args(Source):
                raise ConfigError(f"order: expected some of {', '.join(get_args(Source))}, got {source!r}")
        if len(set(self.order)) != len(self.order):
            raise ConfigError(f"order: expected each source once, got {', '.join(self.order)}")
        if "" in self.models or "" in self.models.values():
            raise ConfigError("models: expected names and places, got an empty one")
