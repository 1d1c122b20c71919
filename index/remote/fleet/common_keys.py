"""What all who share an index must key with, algorithm and seed: the first to come says it."""

from __future__ import annotations

import hashlib
import secrets
from typing import cast, get_args

from kvatlas.index.errors import ConfigError, RemoteIndexError
from kvatlas.index.keys import Algorithm
from kvatlas.index.remote.fleet.board import FORMAT, Board, Meta


def agreed_seed(board: Board, algorithm: Algorithm, hash_seed: str | None) -> str:
    """The seed of this index's keys; for a writer, which says it where nobody has.

    A seed that is given is not put into the server, only a digest of it. None: the one that is kept
    there, made where there is none. Raises ConfigError where others use another seed or algorithm,
    RemoteIndexError when the server cannot be asked.
    """
    seed = secrets.token_hex(16) if hash_seed is None else hash_seed
    meta = board.agree(algorithm, seed if hash_seed is None else "", fingerprint(algorithm, seed))
    return _checked(meta, algorithm, hash_seed)


def confirm_seed(board: Board, algorithm: Algorithm, seed: str, *, is_kept: bool) -> None:
    """Say it again, to a server that may have forgotten everything. Raises as `agreed_seed`."""
    meta = board.agree(algorithm, seed if is_kept else "", fingerprint(algorithm, seed))
    _checked(meta, algorithm, seed)


def known_seed(board: Board, hash_seed: str | None) -> tuple[Algorithm, str]:
    """Algorithm and seed, for a reader.

    Raises RemoteIndexError where nobody has written yet, and as `agreed_seed`.
    """
    meta = board.agree("", "", "")
    if not meta.fingerprint:
        raise RemoteIndexError(
            "index server: expected an index of kvatlas in this namespace, got none: no writer yet"
        )
    for algorithm in get_args(Algorithm):
        if meta.algorithm == algorithm:
            return cast(Algorithm, algorithm), _checked(meta, algorithm, hash_seed)
    raise RemoteIndexError(
        f"index server: expected an algorithm of {get_args(Algorithm)}, got {meta.algorithm!r}"
    )


def fingerprint(algorithm: Algorithm, seed: str) -> str:
    """Says whether two seeds are the same, and not what they are."""
    return hashlib.blake2b(
        f"{algorithm}\0{seed}".encode(), digest_size=16, person=b"kvatlas seed"
    ).hexdigest()


def _checked(meta: Meta, algorithm: Algorithm, hash_seed: str | None) -> str:
    if meta.format != FORMAT:
        raise RemoteIndexError(f"index server: expected an index of format {FORMAT}, got {meta.format!r}")
    if meta.algorithm != algorithm:
        raise ConfigError(f"algorithm: expected {meta.algorithm!r} as all of this index, got {algorithm!r}")
    seed = meta.seed if hash_seed is None else hash_seed
    if hash_seed is None and not seed:
        raise ConfigError("hash_seed: expected the seed that this index's writers were given, got none")
    if fingerprint(algorithm, seed) != meta.fingerprint:
        raise ConfigError("hash_seed: expected that of this index's other processes, got another")
    return seed
