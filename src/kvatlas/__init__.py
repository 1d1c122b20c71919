"""kvatlas: an atlas of where every KV-cache block of a model-server fleet lives."""

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

from kvatlas.index.errors import (
    CheckpointError,
    ClusterError,
    ConfigError,
    DecodeError,
    InputError,
    KvatlasError,
    RecordingError,
    StaleTableError,
    TableFileError,
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

if TYPE_CHECKING:
    from kvatlas.cluster.client import Client
    from kvatlas.cluster.config.cluster_config import ClusterConfig
    from kvatlas.cluster.launch import connect, start

__all__ = [
    "Atlas",
    "AtlasConfig",
    "AtlasStatistics",
    "CheckpointError",
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
    "ModelConfig",
    "PodConfig",
    "RecordingError",
    "Scores",
    "SourceConfig",
    "StaleTableError",
    "StreamLimits",
    "Subscriber",
    "SubscriberConfig",
    "TableFileError",
    "TruthReport",
    "block_keys",
    "connect",
    "decode_batch",
    "start",
]
__version__ = "0.1.0"

# What needs Ray is imported when it is first asked for: an embedded atlas does without.
_ON_RAY = {
    "Client": "kvatlas.cluster.client",
    "ClusterConfig": "kvatlas.cluster.config.cluster_config",
    "connect": "kvatlas.cluster.launch",
    "start": "kvatlas.cluster.launch",
}


def __getattr__(name: str) -> Any:
    module = _ON_RAY.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return globals().setdefault(name, getattr(import_module(module), name))


# What a library logs is shown by whoever sets logging up.
logging.getLogger(__name__).addHandler(logging.NullHandler())
