"""What tokenizing gives: the ids that the model server would compute, and who computed them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from kvatlas.index.keys import Feature


class TokenizedPrompt(NamedTuple):
    """A prompt as its model server would see it."""

    token_ids: npt.NDArray[np.uint32]
    """[n_tokens]"""
    features: tuple[Feature, ...] = ()
    """Its multimodal items: identifier, offset and length in tokens."""
    served_by: str = ""
    """Who computed it: `files:FOLDER`, `sidecar:ADDRESS`, `pod:URL`."""
