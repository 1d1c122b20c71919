"""A peer's cost formula as a policy of one's own, to be compared on equal terms."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kvatlas.index.choosing.policies.policy import PolicyView


class DynamoFormula:
    """NVIDIA Dynamo's KV router: overlap_weight x blocks to prefill there, with those that wait, + blocks
    that it decodes.

    Its formula alone, over our index, loads and speculation, at its default weight and temperature 0.
    """

    name = "dynamo_formula"

    def __init__(self, overlap_weight: float = 1.0) -> None:
        self._overlap_weight = overlap_weight

    def costs(self, view: PolicyView) -> npt.NDArray[np.float64]:
        own = view.prompt_tokens - view.cached_tokens
        to_prefill = own + view.loads.prefill_tokens
        decoded = view.loads.decode_tokens + view.prompt_tokens
        return (self._overlap_weight * to_prefill + decoded) / max(view.block_size_tokens, 1)
