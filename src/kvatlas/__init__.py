"""kvatlas: an atlas of where every KV-cache block of a model-server fleet lives."""

import logging

from kvatlas.index.errors import (
    CheckpointError,
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

__all__ = [
    "Atlas",
    "AtlasConfig",
    "AtlasStatistics",
    "CheckpointError",
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
    "decode_batch",
]
__version__ = "0.1.0"

# What a library logs is shown by whoever sets logging up.
logging.getLogger(__name__).addHandler(logging.NullHandler())
