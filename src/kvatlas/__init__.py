"""kvatlas: an atlas of where every KV-cache block of a model-server fleet lives."""

from kvatlas.index.errors import (
    ConfigError,
    DecodeError,
    InputError,
    KvatlasError,
    StaleTableError,
    TableFileError,
)
from kvatlas.index.keys import block_keys
from kvatlas.index.scores import Explanation, Match, Scores
from kvatlas.ingest.atlas import Atlas
from kvatlas.ingest.atlas_statistics import AtlasStatistics
from kvatlas.ingest.config import AtlasConfig, ModelConfig, PodConfig
from kvatlas.ingest.decoding import decode_batch
from kvatlas.ingest.events import EventBatch

__all__ = [
    "Atlas",
    "AtlasConfig",
    "AtlasStatistics",
    "ConfigError",
    "DecodeError",
    "EventBatch",
    "Explanation",
    "InputError",
    "KvatlasError",
    "Match",
    "ModelConfig",
    "PodConfig",
    "Scores",
    "StaleTableError",
    "TableFileError",
    "block_keys",
    "decode_batch",
]
__version__ = "0.1.0"
