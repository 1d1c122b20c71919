"""Native core of the index: block keys, residency table, matching. Source: index/native/."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

SEGMENT_BLOCKS: int
"""Blocks in a segment."""

class Keyspace:
    """What seeds a chain of block keys. Immutable."""

    @staticmethod
    def fold64(secrets: bytes, block_size: int) -> Keyspace: ...
    @staticmethod
    def fnv64a_cbor(hash_seed: str, model: str, block_size: int) -> Keyspace: ...
    @property
    def block_size(self) -> int: ...
    def root(self, lora: str | None = None) -> int:
        """The key before a chain's first block."""
    def keys(
        self,
        token_ids: object,
        lora: str | None = None,
        cache_salt: str | None = None,
        features: Iterable[tuple[str, int, int]] | None = None,
        parent: int | None = None,
    ) -> npt.NDArray[np.uint64]:
        """uint64 [n_blocks] of the full blocks; see kvatlas.block_keys."""

class Source:
    """Something that can be matched: a table here, or a reader of another process's."""

    def lookup(self, keys: npt.NDArray[np.uint64]) -> list[list[tuple[int, int]]]:
        """(lane, tier bits) of each key. For tools and tests."""

class Table(Source):
    """A residency table. Any thread may call any method; `apply` calls take turns."""

    def __init__(self, budget_bytes: int = ..., path: str | None = None) -> None:
        """`path`: the control file of a shared-memory table; None: private memory."""
    def apply(self, delta: bytes | bytearray | memoryview) -> int:
        """Apply delta records, all or none; returns their number."""
    def replace(self, lanes: Sequence[int], delta: bytes | bytearray | memoryview) -> int:
        """All that these lanes hold becomes what the records leave in empty ones; returns their number.

        A match sees of all these lanes the old or the new. `apply` goes on meanwhile: what it does to
        other lanes stays, to these is lost, except that a lane it clears stays empty. Calls take turns.
        Raises InputError, and changes nothing, when malformed or when a record is of another lane.
        """
    def touch(self, segment_keys: npt.NDArray[np.uint64]) -> None:
        """Tell that these segments are in use."""
    def heartbeat(self) -> None:
        """Tell readers in other processes that the writer lives."""
    def set_whole(self, whole: bool) -> None:
        """Tell readers whether anything is missing in it. At first it is."""
    @property
    def whole(self) -> bool: ...
    @property
    def path(self) -> str:
        """Of the control file; empty: private memory."""
    def statistics(self) -> dict[str, Any]: ...
    def close(self) -> None: ...

class TableReader(Source):
    """Reads a shared-memory table that another process writes."""

    def __init__(self, path: str, age_ms_max: int = 5000) -> None:
        """`age_ms_max`: how old the writer's heartbeat may be, ms.

        This and every look raise StaleTableError when it is older or the table closed, TableFileError
        for a file that is missing, foreign, of another format version or of another user.
        """
    def take_touched(self) -> npt.NDArray[np.uint64]:
        """First keys of segments that matches used since the last call, a sample of 1 024 at most."""
    @property
    def whole(self) -> bool:
        """Nothing is missing in the table; False also when its writer is gone or silent."""
    @property
    def incarnation(self) -> int: ...
    @property
    def age_ms(self) -> int: ...

class Excerpt(Source):
    """Answers of `excerpt` put together: a source that knows the keys asked for, and no others."""

    def __init__(
        self, keys_parts: Sequence[npt.NDArray[np.uint64]], excerpts: Sequence[bytes | memoryview]
    ) -> None:
        """The keys of each question and what came.

        Raises DecodeError for bytes that `excerpt` did not write for these keys.
        """
    def take_touched(self) -> npt.NDArray[np.uint64]:
        """As `TableReader.take_touched`."""
    @property
    def whole(self) -> bool:
        """Every source that was asked was whole."""

class Roster:
    """Which groups and stores make up a worker's cache, and how its engine reuses it."""

    def __init__(self) -> None: ...
    def set(
        self,
        worker: int,
        groups: Sequence[int | tuple[int, int, int, int, bool]],
        stores: Sequence[int],
        chunk_blocks: int = 1,
        recomputes_last_block: bool = True,
        drops_matched_block: bool = False,
    ) -> None:
        """Replace what a worker consists of; neither groups nor stores: remove it.

        `groups`: `kvatlas.index.groups.Group`s, at most 64; a lane alone is a full-attention group.
        `stores`: lanes. `chunk_blocks`: engine blocks that its connector offloads as one.
        `recomputes_last_block`: at least one token of a prompt is always computed.
        `drops_matched_block`: a speculative decoder (EAGLE, MTP) has one matched block computed
        again, in its groups where some are `is_draft`, else in all.
        """

class Index:
    """Shards and roster, matched as one."""

    def __init__(self, shards: Sequence[Source], roster: Roster) -> None: ...
    def match(
        self,
        keys: npt.NDArray[np.uint64],
        allowed: bytes | bytearray | None = None,
        prompt_tokens: int = 0,
        block_size_tokens: int = 0,
    ) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32], npt.NDArray[np.uint32], int, tuple[int, ...]]:
        """workers [n], blocks [n], tier_blocks [n, 5], slots probed, partial rows.

        With a prompt's length and a block size: what is reusable; with neither: the longest prefix.
        """
    def shard_of(self, segment_key: int) -> int: ...

def shard_of(segment_key: int, n_shards: int) -> int:
    """The shard of the segment that begins with this key (jump consistent hash)."""

def segment_tag(segment_key: int) -> int:
    """32 bits that stand for a segment: its shard and its heat follow from them."""

def segment_key_of(tag: int) -> int:
    """A key of a segment with this tag, to write delta records with where the right one is not known."""

def lanes_of(delta: bytes | bytearray | memoryview) -> list[int]:
    """The lanes that delta records name, ascending. Raises InputError when malformed."""

def route(delta: bytes, n_shards: int) -> list[bytes]:
    """Delta records by shard, in their order; those without keys go to all. At most 1 024 shards.

    Raises InputError when malformed.
    """

def excerpt(source: Source, keys: npt.NDArray[np.uint64]) -> bytes:
    """What a source knows of keys in any order, for `Excerpt`. Source: docs/indexer.md, excerpts."""

def remove_dead_tables(folder: str, prefix: str) -> int:
    """Remove the files of tables named `prefix`* whose writers are gone; returns how many tables.

    Never one in use, another user's or a foreign file. Readers that are still attached find the
    table closed. Raises InputError for an empty prefix or one with a slash, TableFileError when the
    folder cannot be read.
    """

# Choosing: what workers were sent. Source: native/history.hpp.

class History:
    """Which slot was sent which blocks, and until when it counts as holding them.

    Any thread may call any method. Times are the caller's, in seconds. Raises InputError for slots
    outside 0 to 65535 and for times that are none.
    """

    def __init__(self, blocks_max: int) -> None:
        """`blocks_max`: of all slots together; the oldest go."""
    def note(self, slot: int, keys: npt.NDArray[np.uint64], now_s: float, until_s: float) -> int:
        """The slot was sent a prompt of these block keys [n_blocks], a chain from its start.

        Returns the number of the note, 0 where there was nothing to note.
        """
    def hints(
        self,
        keys: npt.NDArray[np.uint64],
        slots: npt.NDArray[np.uint32],
        now_s: float,
        tokens_per_block: float = 1.0,
    ) -> npt.NDArray[np.float32] | None:
        """Leading blocks that each slot [n] was sent and still counts as holding, times
        `tokens_per_block`: float32 [n]. None: nobody any."""
    def drop(self, slot: int, keys: npt.NDArray[np.uint64], note: int) -> None:
        """Takes a note back: what it was the first to say of the slot, and nobody has said since."""
    def set_limit(self, slot: int, blocks: int) -> None:
        """What the slot can hold at most. At first `blocks_max`."""
    def forget(self, slot: int) -> None:
        """The slot holds nothing, and has no limit."""
    def statistics(self) -> dict[str, int]:
        """blocks, blocks_max, nodes, claims; since the start notes, evicted_, expired_ and
        dropped_blocks, refused_notes (keys that are no chain)."""

# Choosing: loads and decisions. Source: native/pricing.hpp has the cost, native/loads.hpp the book.

class Candidates:
    """Who may be chosen: one row a worker [n], at most 65 536. Immutable.

    Raises InputError where columns do not fit each other, a value is out of range, or a worker
    stands twice.
    """

    def __init__(
        self,
        numbers: npt.NDArray[np.uint32],
        slots: npt.NDArray[np.uint32],
        discounts: npt.NDArray[np.float32],
        limits: npt.NDArray[np.float64] | None = None,
        offsets: npt.NDArray[np.float64] | None = None,
        requests_max: npt.NDArray[np.uint32] | None = None,
        rates: npt.NDArray[np.float64] | None = None,
    ) -> None:
        """`numbers`: of the index; 0xFFFFFFFF: not in it. `slots`: of the book. `discounts`: what a token
        of a match is worth, 0 to 1; negative: the slot's measured accuracy. `limits`: tokens that
        others' work may cost (inf: none). `offsets`: tokens added to the cost. `requests_max`: from
        which it takes no more (0: none). `rates`: tokens/s that it is configured to prefill (0: not known).
        """
    def __len__(self) -> int: ...

class Terms:
    """What the terms of a cost weigh. Immutable. Raises InputError for what is no weight."""

    def __init__(
        self,
        *,
        kind: str = "weighted",
        overlap: float = 1.0,
        prefill: float = 1.0,
        decode: float = 0.02,
        temperature: float = 0.0,
        tier_costs: npt.NDArray[np.float64] | Sequence[float] | None = None,
        hot_requests: int = 0,
        session_bonus_tokens: float = 0.0,
        reserves_prefill: bool = True,
        reserves_decode: bool = True,
    ) -> None:
        """`kind`: weighted, longest_prefix, least_loaded, random, round_robin; but for the first they set
        the weights that make them what they are. `tier_costs` [5]: of a token that is loaded back, as a
        share of one that is computed. `reserves_...`: what a reservation counts as.
        """

class Decision:
    """What a choice came to. Arrays [n] are made when asked for, rows as the candidates. Immutable."""

    @property
    def row(self) -> int:
        """Of the worker taken; -1: all are saturated, or gone."""
    @property
    def slot(self) -> int:
        """The same; -1: none."""
    @property
    def cost(self) -> float:
        """Tokens, or seconds."""
    @property
    def in_seconds(self) -> bool: ...
    @property
    def cached_tokens(self) -> int:
        """Predicted to be reused there, by the index or by hints."""
    @property
    def index_tokens(self) -> int:
        """The same by the index alone."""
    @property
    def is_reserved(self) -> bool: ...
    @property
    def retry_after_s(self) -> float:
        """With no row: when one of the saturated is expected to take one more."""
    @property
    def costs(self) -> npt.NDArray[np.float32]: ...
    @property
    def credits(self) -> npt.NDArray[np.float32]:
        """Tokens of the prompt that count as reused."""
    @property
    def prefill_tokens(self) -> npt.NDArray[np.float32]:
        """Still to be prefilled there for others."""
    @property
    def decode_tokens(self) -> npt.NDArray[np.float32]:
        """Held there by others' requests, now or when they are done."""
    @property
    def requests(self) -> npt.NDArray[np.uint32]: ...
    @property
    def seconds_per_token(self) -> npt.NDArray[np.float32]:
        """To prefill one; 0: costs are in tokens."""
    @property
    def states(self) -> npt.NDArray[np.uint32]:
        """0 could be taken, 1 saturated, 2 gone."""

class Ended:
    """A reservation that has ended. Immutable."""

    @property
    def request_id(self) -> str: ...
    @property
    def slot(self) -> int: ...
    @property
    def prompt_tokens(self) -> int: ...
    @property
    def prefill_tokens(self) -> int:
        """That it was reserved with."""
    @property
    def cached_tokens(self) -> int:
        """That were predicted."""
    @property
    def seconds(self) -> float:
        """From choice to end."""
    @property
    def prefill_seconds(self) -> float | None:
        """From choice to the end of its prefill. None: nobody has told."""
    @property
    def is_by_index(self) -> bool:
        """`cached_tokens` was what the index said: no hint said more."""

class Loads:
    """What workers have to do, and what has been learned of them. Arrays [n], rows as the candidates."""

    @property
    def prefill_tokens(self) -> npt.NDArray[np.float64]: ...
    @property
    def decode_tokens(self) -> npt.NDArray[np.float64]: ...
    @property
    def requests(self) -> npt.NDArray[np.uint32]: ...
    @property
    def prefill_rate(self) -> npt.NDArray[np.float64]:
        """Tokens/s, measured; 0: not known."""
    @property
    def load_back_rates(self) -> npt.NDArray[np.float64]:
        """[n, 3] tokens/s from cpu, disk and storage, measured; 0: not known, infinity: loading takes no time
        of its own."""
    @property
    def accuracy(self) -> npt.NDArray[np.float64]:
        """Share of predicted tokens that were reused; 0.5 until something is known."""

_Sums = tuple[
    npt.NDArray[np.uint32], npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.uint32]
]

class LoadBook:
    """What this router has sent to workers and is not done, what others say they have sent, and choices.

    Any thread may call any method. Times are the caller's: seconds of one monotonic clock. Raises
    InputError for NaN, negative and huge values.
    """

    def __init__(self, reservations_max: int) -> None: ...
    def slot(self, pod: str, rank: int) -> int:
        """The worker's number, a new one where it has none; at most 65 536 workers at a time."""
    def name(self, slot: int) -> tuple[str, int] | None:
        """Whose number it is now."""
    def forget(self, pod: str) -> list[str]:
        """The pod left. Returns the ids of its reservations, which end."""
    def choose(
        self,
        candidates: Candidates,
        terms: Terms,
        *,
        now_s: float,
        request_id: str,
        prompt_tokens: int,
        output_tokens: int,
        workers: npt.NDArray[np.uint32],
        blocks: npt.NDArray[np.uint32],
        tier_blocks: npt.NDArray[np.uint32],
        partial_rows: tuple[int, ...],
        block_size: int,
        hints: npt.NDArray[np.float32] | None = None,
        bonus_row: int = -1,
        reserve: bool = True,
        seed: int = 0,
    ) -> Decision:
        """The cheapest candidate, among equals by `seed`, reserved in the same step where `reserve` says so.

        `output_tokens`: expected. `workers` to `partial_rows`: of Matches. `hints` [n]: tokens that
        candidates were sent. `bonus_row`: the session's. Not reserved where the id is there already or
        `reservations_max` is reached: counted.
        """
    def pick(
        self,
        candidates: Candidates,
        costs: npt.NDArray[np.float64],
        *,
        now_s: float,
        request_id: str,
        prompt_tokens: int,
        output_tokens: int,
        workers: npt.NDArray[np.uint32],
        blocks: npt.NDArray[np.uint32],
        tier_blocks: npt.NDArray[np.uint32],
        partial_rows: tuple[int, ...],
        block_size: int,
        hints: npt.NDArray[np.float32] | None = None,
        bonus_row: int = -1,
        reserve: bool = True,
        seed: int = 0,
        terms: Terms = ...,
    ) -> Decision:
        """The same with costs from elsewhere; infinity: not this one. `terms`: what tiers count,
        and others' work before limits."""
    def snapshot(self, candidates: Candidates, now_s: float | None = None) -> Loads:
        """Their loads. With a time: less what has been done by then of prefills that are under way."""
    def reserve(
        self,
        slot: int,
        *,
        request_id: str,
        prefill_tokens: int,
        prompt_tokens: int,
        output_tokens: int,
        cached_tokens: int = 0,
        loaded_tokens: Sequence[int] | None = None,
        now_s: float,
    ) -> bool:
        """A choice that was made elsewhere. False: no room, the id is there already, or no such slot.

        `loaded_tokens` [3]: those of `cached_tokens` that cpu, disk and storage have. None: not known.
        """
    def prefill_done(self, request_id: str, now_s: float) -> bool:
        """Its prompt is computed. False: no such reservation."""
    def produced(self, request_id: str, tokens: int, now_s: float) -> bool:
        """So many so far: the prefill is done. False: no such reservation."""
    def completed(self, request_id: str, now_s: float, *, cached_tokens: int | None = None) -> Ended | None:
        """It ended well; `cached_tokens`: what the engine has reused. None: no such reservation."""
    def failed(self, request_id: str, now_s: float) -> Ended | None:
        """It ended otherwise: nothing is learned of it."""
    def expire(self, now_s: float, silence_s: float) -> list[str]:
        """Ends those that nobody has mentioned for `silence_s`; their ids."""
    def changed(self) -> _Sums:
        """Own sums that have changed since the last call: slots, prefill, decode, requests [k]."""
    def own(self) -> _Sums:
        """Own sums of all that have any."""
    def set_remote(
        self,
        router: int,
        slots: npt.NDArray[np.uint32],
        prefill: npt.NDArray[np.float64],
        decode: npt.NDArray[np.float64],
        requests: npt.NDArray[np.uint32],
        whole: bool,
    ) -> None:
        """What another router has sent, in place of what it last said of these slots; `whole`: of all.
        At most 1 024 routers."""
    def drop_remote(self, router: int) -> None: ...
    def statistics(self) -> dict[str, int]:
        """Now: reservations, slots, routers. Since the start: choices, reserved, saturated,
        unreserved_full (`reservations_max`), unreserved_duplicates, prefilled, completed, failed,
        expired, forgotten, learned_prefills and learned_loads (stretches that taught a rate), unknown
        (mentions of requests that are not there), refused_routers."""

# Writing into a server. Source: native/remote_lanes.hpp.

def rename_lanes(
    delta: bytes | memoryview, lanes: npt.NDArray[np.uint32], removals_only: bool = False
) -> bytes:
    """The records with lane i told of `lanes[i]`; left out where that is 2^32 - 1, or `lanes` ends before.

    `removals_only`: what adds or closes is left out too. Raises InputError for records that are none.
    """

# The remote index: what it packs and unpacks.
# Source: docs/remote_format.md, native/remote_batch.hpp, remote_answer.hpp.

class RemoteLanes:
    """The lanes that physical ones stand for. Immutable. Raises DecodeError for a map that is none."""

    def __init__(self, pairs: npt.NDArray[np.uint32]) -> None:
        """`pairs` [2 n]: physical lane, lane."""
    def __len__(self) -> int: ...

def remote_lanes_of(
    delta: bytes | bytearray | memoryview,
) -> tuple[list[int], list[int], list[tuple[int, bool]]]:
    """Lanes with keys that stay, lanes that are cleared, and the last word on lanes' closedness.

    Raises InputError when malformed.
    """

def remote_pack(
    delta: bytes | bytearray | memoryview, phys_of: dict[int, int], n_buckets: int, space: str
) -> list[tuple[int, int, bytes, bytes, int]]:
    """Delta records as calls of the script: bucket, count and names of its segments, records, count of keys.

    The names are packed arguments of a command. Records of lanes that `phys_of` lacks are left out. Raises
    InputError when malformed.
    """

def remote_questions(
    keys: npt.NDArray[np.uint64], n_buckets: int, space: str
) -> list[tuple[int, list[bytes], bytes, npt.NDArray[np.uint64]]]:
    """A chain as calls of the script: bucket, names of its segments, questions, their keys."""

def remote_answer(
    answer: bytes | memoryview, n_keys: int, lanes: RemoteLanes, whole: bool = True
) -> tuple[bytes, bytes, int]:
    """The life's id, an excerpt for `Excerpt`, and how many keys had a foreign value.

    Raises DecodeError for bytes that are no answer to so many keys.
    """

def remote_page(
    page: bytes | memoryview, lanes: RemoteLanes
) -> tuple[
    npt.NDArray[np.uint64],
    npt.NDArray[np.uint32],
    npt.NDArray[np.uint32],
    npt.NDArray[np.uint32],
    npt.NDArray[np.uint32],
    int,
]:
    """Keys [n], their segments' tags [n] and sets [n]; of the sets counts and elements (lane << 8 | tiers);
    foreign values.

    Raises DecodeError for bytes that are no page.
    """

# llm-d's format: what is told. Source: docs/llmd_format.md, native/llmd_batch.hpp.

def llmd_lanes_of(
    delta: bytes | bytearray | memoryview,
) -> list[tuple[int, bool, int, list[tuple[int, int, npt.NDArray[np.uint64]]]]]:
    """Of each lane: whether it is emptied first, keys told in all, and what is then added (1) or removed (2):
    op, tier bits, keys [n].

    Raises InputError when malformed.
    """

def llmd_arguments(keys: npt.NDArray[np.uint64]) -> bytes:
    """Keys in decimal, as packed arguments of a command."""

# Snapshots. Source: native/section.hpp has the format of content records, docs/dump_format.md describes it.

class Snapshot:
    """What one table held at one instant; it takes `bytes` until the last reference goes.

    What is asked of it first, but for `bytes`, sorts what was copied: some 25 ns a block.
    """

    @property
    def entries(self) -> int: ...
    @property
    def pairs(self) -> int:
        """Of a block and a lane that holds it."""
    @property
    def bytes(self) -> int: ...
    @property
    def lanes(self) -> list[int]: ...
    def sections(self, keys_max: int = ...) -> Sections:
        """Its content records, one at a time; at least one, which names all lanes."""

class Sections:
    """Content records of a snapshot, made as they are asked for."""

    def __iter__(self) -> Sections: ...
    def __next__(self) -> bytes: ...

class ContentView:
    """A content record, checked. Arrays are made when asked for."""

    @property
    def entries(self) -> int: ...
    @property
    def pairs(self) -> int: ...
    @property
    def knows_tags(self) -> bool:
        """False: it comes from an index that does not keep segments; it cannot be divided among shards."""
    @property
    def lanes(self) -> list[int]: ...
    @property
    def closed(self) -> list[int]:
        """Lanes that are closed under prefixes."""
    @property
    def lossy(self) -> list[int]:
        """Lanes of which something was dropped."""
    @property
    def keys(self) -> npt.NDArray[np.uint64]: ...
    @property
    def tags(self) -> npt.NDArray[np.uint32]:
        """Of the keys' segments, one for each key."""
    @property
    def sets(self) -> npt.NDArray[np.uint32]:
        """Which set holds it, for each key."""
    @property
    def set_begins(self) -> npt.NDArray[np.uint32]:
        """First element of each set, and their number at the end."""
    @property
    def elements(self) -> npt.NDArray[np.uint32]:
        """lane << 8 | tier bits."""

def snapshot(tables: Sequence[Table]) -> list[Snapshot]:
    """What these tables hold, all at one instant. Applies and matches go on.

    Raises InputError for none or one given twice, TableFileError for a closed one, DumpError where
    snapshots that are held already leave no room in a table's budget.
    """

def content_of(section: bytes | bytearray | memoryview) -> ContentView:
    """Raises DumpError, saying at which byte, for what is no content record."""

def renamed(section: bytes | bytearray | memoryview, lanes: Mapping[int, int]) -> bytes:
    """The record with other numbers for its lanes; those that the mapping lacks are left out.

    Raises DumpError for what is no content record, InputError where two get one number.
    """

def deltas_of(
    section: bytes | bytearray | memoryview, lanes: Mapping[int, int] | None = None, n_shards: int = 1
) -> list[bytes]:
    """Delta records that add what the record says, one buffer a shard; `lanes` as in `renamed`.

    Marks of closed lanes are not in it. Raises as `renamed`.
    """

def load_content(
    tables: Sequence[Table],
    sections: Iterable[bytes | bytearray | memoryview],
    lanes: Mapping[int, int] | None = None,
) -> int:
    """Every lane that the records name becomes what they say, in all tables at one instant; other lanes stay.

    A match that a table's change of generation finds under way sees that table as it was when it began.
    `tables`: all shards of an index, in their order. `lanes` as in `renamed`. Nothing is changed where an
    error is raised, by a record or by the iterable. Returns how many blocks were read. What the iterable
    does must not wait for a `replace` of these tables. Raises DumpError for what is no content record.
    """

def sections_of(
    lanes: Iterable[int],
    keys: npt.NDArray[np.uint64],
    tags: npt.NDArray[np.uint32] | None,
    sets: npt.NDArray[np.uint32],
    set_sizes: npt.NDArray[np.uint32],
    elements: npt.NDArray[np.uint32],
    closed: Iterable[int] = (),
    lossy: Iterable[int] = (),
    keys_max: int = ...,
) -> list[bytes]:
    """Content records of keys [n] with their segments' tags [n] and sets [n].

    Of each set `set_sizes` says how many elements are its own, in their order: lane << 8 | tier bits. `tags`
    None: segments are not known. Raises InputError where they do not fit each other.
    """

def search_section(
    section: bytes | bytearray | memoryview,
    tiers_of_lane: Mapping[int, int],
    keys: npt.NDArray[np.uint64] | None = None,
    n_max: int = 1000,
) -> tuple[int, list[tuple[int, int, int, int]]]:
    """How many (key, lane) pairs there are of these lanes in these tiers, and the first of them.

    Each as key, tag, lane, tier bits.
    """

def differences(left: Table, right: Table) -> list[tuple[int, int, int, int, int]]:
    """Lane, tier bit, and how many keys are held only in the first, only in the second, in both."""

# The byte budget. Source: native/heat.hpp has the policy, native/budget_cut.hpp what is left behind.

class Heat:
    """How much segments are in use, by buckets of their tags. A table has one of its own."""

    def __init__(self, budget_bytes: int) -> None: ...
    @property
    def n_buckets(self) -> int: ...
    def bucket_of(self, tag: int) -> int: ...
    def apply(self, n_keys: int) -> None:
        """Time passes: so many keys are applied."""

    def added(self, tag: int) -> None: ...
    def looked_up(self, tag: int) -> None: ...
    def use_of(self, tag: int) -> tuple[int, int]:
        """Its age in ticks, and its lookups of late."""

    def coldest(
        self,
        contents: Sequence[tuple[int, int, int]],
        entry_bytes: float,
        set_unit_bytes: float,
        bytes_to_drop: float,
        step: int,
    ) -> list[int]:
        """The buckets to leave behind so that so many bytes are saved, of (bucket, entries, set units).

        Found `step` buckets at a time. Raises InputError for a bucket that there is not.
        """
