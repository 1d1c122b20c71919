"""How long the block keys of a prompt take, by algorithm and by the kind of token ids."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from peer import load_peer
from results import Result, arguments, show, timed
from timing import Contender, Timing, alternate, over
from workload import BLOCK_TOKENS, MODEL, SEED, random_tokens

from kvatlas import block_keys
from kvatlas.index.keys import Algorithm

ALGORITHMS: tuple[Algorithm, ...] = ("fold64", "fnv64a_cbor")


def main() -> None:
    args = arguments(__doc__).parse_args()
    peer = load_peer()
    random = np.random.default_rng(3)
    results: list[Result] = []
    for n_tokens in (8192, 131_072):
        arrays = [random_tokens(random, n_tokens // BLOCK_TOKENS) for _ in range(16)]
        kinds: dict[str, list[Any]] = {
            "numpy": arrays,
            "bytes": [a.tobytes() for a in arrays],
            "list": [a.tolist() for a in arrays],
        }
        contenders: dict[str, Contender] = {}
        for algorithm in ALGORITHMS:
            call = functools.partial(
                block_keys, model=MODEL, block_size=BLOCK_TOKENS, algorithm=algorithm, hash_seed=SEED
            )
            for kind, prompts in kinds.items():
                contenders[f"{algorithm}, {kind}"] = over(call, prompts)
        if peer is not None:
            contenders["peer"] = over(peer.block_hashes, kinds["list"])
        timings = alternate(contenders, rounds=15 if args.quick else 101)
        theirs: Timing | None = timings.pop("peer", None)
        for name, timing in timings.items():
            row = f"keys/{n_tokens}/{name.replace(', ', '/')}"
            results.append(timed(row, f"{n_tokens} tokens, {name}", timing, theirs))
    show(results, args.json)


if __name__ == "__main__":
    main()
