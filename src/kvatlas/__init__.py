"""kvatlas: an atlas of where every KV-cache block of a model-server fleet lives."""

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

from kvatlas.index.choosing.ask import Ask
from kvatlas.index.choosing.choice import Choice
from kvatlas.index.choosing.chooser import Chooser
from kvatlas.index.choosing.serving import Serving, ServingPod
from kvatlas.index.choosing.settings import ChoosingConfig
from kvatlas.index.errors import (
    CheckpointError,
    ClusterError,
    ConfigError,
    DecodeError,
    InputError,
    KvatlasError,
    NoWorkerError,
    OverloadedError,
    RecordingError,
    StaleTableError,
    TableFileError,
    TemplateError,
    TokenizerError,
    UnsupportedModelError,
)
from kvatlas.index.keys import block_keys
from kvatlas.index.scores import Explanation, Match, Scores
from kvatlas.ingest.atlas import Atlas
from kvatlas.ingest.atlas_statistics import AtlasStatistics
from kvatlas.ingest.config import AtlasConfig, ModelConfig, PodConfig
from kvatlas.ingest.sockets.curve import CurveConfig
from kvatlas.ingest.sockets.source_config import SourceConfig
from kvatlas.ingest.sockets.subscriber import Subscriber
from kvatlas.ingest.sockets.subscriber_config import SubscriberConfig
from kvatlas.ingest.stream.limits import StreamLimits
from kvatlas.ingest.stream.truth import TruthReport
from kvatlas.ingest.wire.decoding import decode_batch
from kvatlas.ingest.wire.events import EventBatch
from kvatlas.tokenize.chat.chat import Chat, Media
from kvatlas.tokenize.config import TokenizeConfig
from kvatlas.tokenize.prompt import TokenizedPrompt

if TYPE_CHECKING:
    from kvatlas.cluster.client import Client
    from kvatlas.cluster.config.cluster_config import ClusterConfig
    from kvatlas.cluster.launch import connect, start
    from kvatlas.tokenize.tokenizers import Tokenizers

__all__ = [
    "Ask",
    "Atlas",
    "AtlasConfig",
    "AtlasStatistics",
    "Chat",
    "CheckpointError",
    "Choice",
    "Chooser",
    "ChoosingConfig",
    "Client",
    "ClusterConfig",
    "ClusterError",
    "ConfigError",
    "CurveConfig",
    "DecodeError",
    "EventBatch",
    "Explanation",
    "InputError",
    "KvatlasError",
    "Match",
    "Media",
    "ModelConfig",
    "NoWorkerError",
    "OverloadedError",
    "PodConfig",
    "RecordingError",
    "Scores",
    "Serving",
    "ServingPod",
    "SourceConfig",
    "StaleTableError",
    "StreamLimits",
    "Subscriber",
    "SubscriberConfig",
    "TableFileError",
    "TemplateError",
    "TokenizeConfig",
    "TokenizedPrompt",
    "TokenizerError",
    "Tokenizers",
    "TruthReport",
    "UnsupportedModelError",
    "block_keys",
    "connect",
    "decode_batch",
    "start",
]
__version__ = "0.1.0"

# What needs Ray, or the tokenizers library, is imported when it is first asked for: an atlas does without.
_LATER = {
    "Client": "kvatlas.cluster.client",
    "ClusterConfig": "kvatlas.cluster.config.cluster_config",
    "connect": "kvatlas.cluster.launch",
    "Tokenizers": "kvatlas.tokenize.tokenizers",
    "start": "kvatlas.cluster.launch",
}


def __getattr__(name: str) -> Any:
    module = _LATER.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return globals().setdefault(name, getattr(import_module(module), name))


# What a library logs is shown by whoever sets logging up.
logging.getLogger(__name__).addHandler(logging.NullHandler())
