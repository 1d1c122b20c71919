"""Settings of the pool of tokenizers, and of whoever asks it."""

from __future__ import annotations

import msgspec

from kvatlas.actors.reading.settings import ReaderSettings
from kvatlas.index.errors import ConfigError
from kvatlas.tokenize.config import TokenizeConfig
from kvatlas.tokenize.pool.bounded_work import WorkLimits


class TokenizerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How prompts and chats become token ids in one cluster. Raises ConfigError for values out of range."""

    tokenize: TokenizeConfig = TokenizeConfig()
    work: WorkLimits = WorkLimits()
    """Of each process that tokenizes."""
    reading: ReaderSettings = ReaderSettings()
    has_pool: bool = False
    """Whether there are actors that tokenize; else each client does."""
    call_s_max: float = 30.0
    """An answer that has not come by then will not: the client says so, seconds."""
    report_s: float = 1.0
    owned: bool = False
    """A tokenizer ends when the cluster's directory is gone, instead of waiting for it to come back."""
    directory_gone_s_max: float = 10.0
    """How long the directory of an owned cluster may be gone, seconds."""

    def __post_init__(self) -> None:
        for name in ("call_s_max", "report_s", "directory_gone_s_max"):
            value = getattr(self, name)
            if isinstance(value, bool) or not 0 < value <= 86_400:
                raise ConfigError(f"tokenizers.{name}: expected above 0 to 86400, got {value!r}")
