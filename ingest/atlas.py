"""The atlas in one process: events in, scores out. Ray's actors hold parts of it, libraries all.

Write path: `ingest` -> Decoder.decode -> Mirror.apply -> Table.apply.
Read path:  `score` -> Keyspace.keys -> Index.match -> Scores.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from kvatlas.index.choosing.looking import Look
from kvatlas.index.choosing.serving import ServingPod
from kvatlas.index.dumps.meta import DumpTotals
from kvatlas.index.errors import InputError
from kvatlas.index.keys import Feature, TokenIds
from kvatlas.index.prompts import Messages, Tokenizing, ids_of
from kvatlas.index.reading import Asked
from kvatlas.index.scores import Explanation, Scores
from kvatlas.index.scores_batch import ScoresBatch
from kvatlas.index.shards import Strategy
from kvatlas.ingest.atlas_statistics import AtlasStatistics
from kvatlas.ingest.atlas_tables import DumpTarget, TableHome
from kvatlas.ingest.checkpoints import CheckpointReport
from kvatlas.ingest.config import AtlasConfig, PodConfig
from kvatlas.ingest.feed import Feed, FeedNames
from kvatlas.ingest.shown_dump import LoadedReport

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from kvatlas.ingest.atlas_llmd import LlmdHome
    from kvatlas.ingest.atlas_remote import RemoteHome
    from kvatlas.ingest.server_home import IndexStatus


class Atlas:
    """Where the KV-cache blocks of a fleet live, kept from its servers' events.

    Any thread may call any method. Writers (`ingest`, feeds, `remove_pod`) take turns; readers
    (`score`, `explain`, `lookup`) never wait for them. `clock_s` is for tests.
    """

    def __init__(
        self,
        config: AtlasConfig | None = None,
        *,
        tokenizers: Tokenizing | None = None,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """`tokenizers`: what prompts and chats are turned into token ids with (`kvatlas.Tokenizers`);
        they stay the caller's. None: only token ids can be asked for."""
        self.config = config or AtlasConfig()
        self._tokenizers = tokenizers
        self._home = _home_of(self.config, tokenizers, clock_s)
        self._mirror = self._home.mirror
        self._reader = self._home.reads

    # Write path.

    def ingest(self, topic: bytes, seq: int, payload: bytes) -> None:
        """Apply one message of a model server: its three frames, `seq` already an integer.

        For whoever has the messages in hand; sockets want a `Subscriber`. Batches that are missing
        between two cannot be asked for, and put the worker in doubt. Bad events inside are counted
        and skipped. Raises DecodeError when the payload is no batch at all, InputError when nobody
        says which pod and model it is from; both are counted as `refused_payloads` and change
        nothing else.
        """
        self._mirror.ingest(topic, seq, payload)

    def feed(
        self,
        names: FeedNames | None = None,
        has_replay: bool | Callable[[str, int], bool] = False,
        *,
        introduces: bool = False,
    ) -> Feed:
        """A door for one source of batches, with a connection that may break and be asked again.

        `names` stand in where topics and events have none. `has_replay`: whether past batches can be
        asked for, of all its workers or by (pod, rank). `introduces`: one replay socket answers for
        the source, also before anybody has spoken.
        """
        return self._mirror.feed(names, has_replay, introduces=introduces)

    def save(self, folder: str | Path) -> CheckpointReport:
        """Write all that is held to a folder, while batches go on coming (docs/checkpoint_format.md).

        One file a worker and store, each whole or not there. It takes about half a second for a
        million blocks, during which the write path waits at most some milliseconds at a time. Raises
        CheckpointError when the folder cannot be made; other errors are in the report. One call at a
        time.
        """
        return self._mirror.save(folder)

    def load(self, folder: str | Path) -> CheckpointReport:
        """Read what `save` has written, before any worker is heard. Wants the same `hash_seed`.

        What is torn, foreign or of another version, seed or worker is left out and said in the
        report. Workers loaded are in doubt until their replay socket has told what came since.
        """
        return self._mirror.load(folder)

    def remove_pod(self, pod: str) -> None:
        """Forget a pod: its lanes are emptied; stores keep what it wrote. Unknown pods are ignored."""
        self._mirror.remove_pod(pod)

    def reused(
        self, pod: str, predicted_tokens: int, actual_tokens: int, *, model: str, rank: int = 0
    ) -> None:
        """Tell how many tokens of a prompt a worker has reused, and how many were predicted.

        Predictions that fail again and again put the worker in doubt, and its history is asked for
        again. Compare requests whose predecessors' events had come. Unknown workers are ignored.
        """
        self._mirror.reused(pod, predicted_tokens, actual_tokens, model=model, rank=rank)

    def set_pod(self, pod: str, config: PodConfig | None) -> None:
        """What is known of a pod, in the place of `AtlasConfig.pods`; None: nothing any more."""
        self._mirror.set_pod(pod, config)

    def set_block_size(self, model: str, tokens: int) -> None:
        """Tokens in a block of a model's index, where its servers' events do not say so yet.

        A smaller one than known empties the model's workers and has their history asked for again; a
        larger one, or one of a model that is configured, changes nothing. Raises InputError when it is
        none, or there is no room for the model.
        """
        self._mirror.set_block_size(model, tokens)

    # Read path.

    def score(
        self,
        token_ids: TokenIds | None = None,
        *,
        model: str,
        prompt: str | None = None,
        messages: Messages | None = None,
        lora: str | None = None,
        cache_salt: str | None = None,
        features: Iterable[Feature] | None = None,
        pods: Iterable[str] | None = None,
        strategy: Strategy = "reusable",
    ) -> Scores:
        """How much of a prompt each pod can reuse. Arguments as `kvatlas.block_keys`.

        The prompt is given as `token_ids`, as the text of a completion (`prompt`), or as a chat
        (`messages`: a list, or a `kvatlas.Chat` with tools and the like). `pods`: only these.
        `strategy`: "reusable" counts as the engine reuses (docs/indexer.md), "longest_prefix" the
        leading blocks held in any tier. A model that no server has announced scores nothing. Raises
        InputError for a malformed prompt, TokenizerError when there is no way to its token ids.
        """
        ids, features = ids_of(self._tokenizers, model, token_ids, prompt, messages, features)
        return self._reader.score(
            ids,
            model=model,
            lora=lora,
            cache_salt=cache_salt,
            features=features,
            pods=pods,
            strategy=strategy,
        )

    def score_many(
        self,
        prompts: Sequence[TokenIds] | TokenIds,
        *,
        model: str,
        offsets: Sequence[int] | npt.NDArray[np.integer[Any]] | None = None,
        lora: str | None = None,
        cache_salt: str | None = None,
        pods: Iterable[str] | None = None,
        strategy: Strategy = "reusable",
    ) -> ScoresBatch:
        """Scores of many prompts of one model, as if asked one by one.

        `prompts`: one after the other, or one flat buffer of uint32 token ids with `offsets` [n + 1]
        in tokens, so that prompt i has the ids from offsets[i] to offsets[i + 1].
        """
        return self._reader.score_many(
            prompts,
            model=model,
            offsets=offsets,
            lora=lora,
            cache_salt=cache_salt,
            pods=pods,
            strategy=strategy,
        )

    def explain(
        self,
        token_ids: TokenIds | None = None,
        *,
        model: str,
        prompt: str | None = None,
        messages: Messages | None = None,
        lora: str | None = None,
        cache_salt: str | None = None,
        features: Iterable[Feature] | None = None,
        pods: Iterable[str] | None = None,
    ) -> Explanation:
        """For each worker of the model: what it holds of the prompt, and why its match ends there.

        For people and tools: it costs a Python object a block. Arguments as `score`.
        """
        ids, features = ids_of(self._tokenizers, model, token_ids, prompt, messages, features)
        return self._reader.explain(
            ids, model=model, lora=lora, cache_salt=cache_salt, features=features, pods=pods
        )

    def lookup(self, keys: npt.NDArray[np.uint64]) -> list[dict[tuple[str, int, int] | str, int]]:
        """For each block key: tier bits by (pod, rank, group), or by name for a store."""
        return self._reader.lookup(keys)

    # What choices are made from (`kvatlas.Chooser`).

    def look(self, token_ids: TokenIds, **asked: Unpack[Asked]) -> Look:
        """A prompt's matches and the workers of that moment; as `score`, without what it is worth."""
        return self._home.look(token_ids, **asked)

    def set_serving(self, pod: str, serving: ServingPod | None) -> None:
        """How requests reach a pod, and what it can take; None: nobody says any more.

        A pod without events can be chosen too: it is BLIND. Raises InputError where `serving` is of
        another pod.
        """
        self._home.set_serving(pod, serving)

    def serving_pods(self) -> Mapping[str, ServingPod]:
        """Pods that `set_serving` has described, and those whose events are heard. Do not change it."""
        return self._home.serving_pods()

    @property
    def serving_version(self) -> Hashable:
        """Equal ones mean that `serving_pods` says the same."""
        return self._home.serving_version

    # What it knows of itself.

    def residency(self, model: str) -> dict[tuple[str, int, int] | str, dict[int, int]]:
        """What the mirrors of a model hold: tier bits by block key, by (pod, rank, group) or store.

        The mirrors are the source of truth; the tables are made from them.
        """
        return self._mirror.residency(model)

    def statistics(self) -> AtlasStatistics:
        """Counts, sizes and bounds of everything, at one moment."""
        return self._mirror.statistics()

    def dump(self, to: DumpTarget) -> DumpTotals:
        """Write the index as it is at one moment to a file or stream, while it is written and read.

        docs/dump_format.md; `kvatlas load` takes it, with the same `hash_seed`. Raises DumpError where
        nothing can be written, InputError for an index in a server, which others write, too.
        """
        if not isinstance(self._home, TableHome):
            raise InputError("dump: expected an index in this process, got one in a server")
        return self._home.dump(to)

    def load_dump(self, of: DumpTarget) -> LoadedReport:
        """Show what a dump says of workers that this atlas does not hear itself (docs/moving_state.md).

        They are DEGRADED, "from a dump of 40 s ago"; each is given up as soon as it is heard. A dump takes
        the place of the one before. Wants the same `hash_seed`. Batches wait while the tables are loaded,
        some 0.1 s a million blocks. Raises DumpError for a dump that is torn or of other keys, InputError
        for more workers than `workers_max`, or an index in a server; what was shown before stays.
        """
        if not isinstance(self._home, TableHome):
            raise InputError("load_dump: expected an index in this process, got one in a server")
        return self._home.load_dump(of)

    def index_status(self) -> IndexStatus | None:
        """How it stands to the server that its index is in; None: the index is in this process."""
        return self._home.status()

    def close(self) -> None:
        """Release the tables; later calls raise TableFileError.

        Of an index in a server: end the session there, with which its blocks go, and the connection.
        """
        self._home.close()


def _home_of(
    config: AtlasConfig, tokenizers: Tokenizing | None, clock_s: Callable[[], float]
) -> TableHome | RemoteHome | LlmdHome:
    if config.index.kind == "memory":
        return TableHome(config, clock_s)
    if config.index.server.format == "llmd":
        from kvatlas.ingest.atlas_llmd import LlmdHome

        return LlmdHome(config, tokenizers, clock_s)
    from kvatlas.ingest.atlas_remote import RemoteHome  # whoever has no server needs no client of one

    return RemoteHome(config, tokenizers, clock_s)
