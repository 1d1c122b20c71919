"""kvatlas: an atlas of where every KV-cache block of a model-server fleet lives."""

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kvatlas.cluster.client import Client
    from kvatlas.cluster.config.cluster_config import ClusterConfig
    from kvatlas.cluster.launch import connect, start
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
        DumpError,
        InputError,
        KvatlasError,
        NoWorkerError,
        OverloadedError,
        RecordingError,
        RemoteIndexError,
        StaleTableError,
        StoreError,
        TableFileError,
        TemplateError,
        TokenizerError,
        UnsupportedModelError,
    )
    from kvatlas.index.keys import block_keys
    from kvatlas.index.remote.connection.settings import RemoteSettings
    from kvatlas.index.remote.fleet.opening import open_index
    from kvatlas.index.remote.fleet.remote_atlas import RemoteAtlas
    from kvatlas.index.remote.fleet.settings import SharingSettings
    from kvatlas.index.scores import Explanation, Match, Scores
    from kvatlas.ingest.atlas import Atlas
    from kvatlas.ingest.atlas_statistics import AtlasStatistics
    from kvatlas.ingest.config import AtlasConfig, ModelConfig, PodConfig
    from kvatlas.ingest.index_config import IndexConfig
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
    "DumpError",
    "EventBatch",
    "Explanation",
    "IndexConfig",
    "InputError",
    "KvatlasError",
    "Match",
    "Media",
    "ModelConfig",
    "NoWorkerError",
    "OverloadedError",
    "PodConfig",
    "RecordingError",
    "RemoteAtlas",
    "RemoteIndexError",
    "RemoteSettings",
    "Scores",
    "Serving",
    "ServingPod",
    "SharingSettings",
    "SourceConfig",
    "StaleTableError",
    "StoreError",
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
    "open_index",
    "start",
]
__version__ = "0.1.0"

# Each name is imported when it is first asked for: a model server that loads kvatlas.offload has neither
# Ray nor the tokenizers library, and pays for no more than it uses.
_MODULE_OF = {
    "Ask": "kvatlas.index.choosing.ask",
    "Atlas": "kvatlas.ingest.atlas",
    "AtlasConfig": "kvatlas.ingest.config",
    "AtlasStatistics": "kvatlas.ingest.atlas_statistics",
    "Chat": "kvatlas.tokenize.chat.chat",
    "CheckpointError": "kvatlas.index.errors",
    "Choice": "kvatlas.index.choosing.choice",
    "Chooser": "kvatlas.index.choosing.chooser",
    "ChoosingConfig": "kvatlas.index.choosing.settings",
    "Client": "kvatlas.cluster.client",
    "ClusterConfig": "kvatlas.cluster.config.cluster_config",
    "ClusterError": "kvatlas.index.errors",
    "ConfigError": "kvatlas.index.errors",
    "CurveConfig": "kvatlas.ingest.sockets.curve",
    "DecodeError": "kvatlas.index.errors",
    "DumpError": "kvatlas.index.errors",
    "EventBatch": "kvatlas.ingest.wire.events",
    "Explanation": "kvatlas.index.scores",
    "IndexConfig": "kvatlas.ingest.index_config",
    "InputError": "kvatlas.index.errors",
    "KvatlasError": "kvatlas.index.errors",
    "Match": "kvatlas.index.scores",
    "Media": "kvatlas.tokenize.chat.chat",
    "ModelConfig": "kvatlas.ingest.config",
    "NoWorkerError": "kvatlas.index.errors",
    "OverloadedError": "kvatlas.index.errors",
    "PodConfig": "kvatlas.ingest.config",
    "RecordingError": "kvatlas.index.errors",
    "RemoteAtlas": "kvatlas.index.remote.fleet.remote_atlas",
    "RemoteIndexError": "kvatlas.index.errors",
    "RemoteSettings": "kvatlas.index.remote.connection.settings",
    "Scores": "kvatlas.index.scores",
    "Serving": "kvatlas.index.choosing.serving",
    "ServingPod": "kvatlas.index.choosing.serving",
    "SharingSettings": "kvatlas.index.remote.fleet.settings",
    "SourceConfig": "kvatlas.ingest.sockets.source_config",
    "StaleTableError": "kvatlas.index.errors",
    "StoreError": "kvatlas.index.errors",
    "StreamLimits": "kvatlas.ingest.stream.limits",
    "Subscriber": "kvatlas.ingest.sockets.subscriber",
    "SubscriberConfig": "kvatlas.ingest.sockets.subscriber_config",
    "TableFileError": "kvatlas.index.errors",
    "TemplateError": "kvatlas.index.errors",
    "TokenizeConfig": "kvatlas.tokenize.config",
    "TokenizedPrompt": "kvatlas.tokenize.prompt",
    "TokenizerError": "kvatlas.index.errors",
    "Tokenizers": "kvatlas.tokenize.tokenizers",
    "TruthReport": "kvatlas.ingest.stream.truth",
    "UnsupportedModelError": "kvatlas.index.errors",
    "block_keys": "kvatlas.index.keys",
    "connect": "kvatlas.cluster.launch",
    "decode_batch": "kvatlas.ingest.wire.decoding",
    "open_index": "kvatlas.index.remote.fleet.opening",
    "start": "kvatlas.cluster.launch",
}


def __getattr__(name: str) -> Any:
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return globals().setdefault(name, getattr(import_module(module), name))


# What a library logs is shown by whoever sets logging up.
logging.getLogger(__name__).addHandler(logging.NullHandler())
