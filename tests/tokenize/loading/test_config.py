"""Values that a configuration of tokenizers may have."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kvatlas.index.errors import ConfigError
from kvatlas.tokenize.config import HubConfig, SidecarConfig, TokenizeConfig, TokenizeLimits


@pytest.mark.parametrize(
    ("make", "path"),
    [
        (lambda: HubConfig(timeout_s=0), r"hub\.timeout_s"),
        (lambda: SidecarConfig(timeout_s=float("inf")), r"sidecar\.timeout_s"),
        (lambda: SidecarConfig(message_bytes_max=1), r"sidecar\.message_bytes_max"),
        (lambda: TokenizeLimits(text_bytes_max=-1), r"limits\.text_bytes_max"),
        (lambda: TokenizeLimits(render_s_max=float("nan")), r"limits\.render_s_max"),
        (lambda: TokenizeConfig(loaded_max=0), "loaded_max"),
        (lambda: TokenizeConfig(look_s=-1), "look_s"),
        (lambda: TokenizeConfig(check_share=1.5), "check_share"),
        (lambda: TokenizeConfig(order=("cache", "cache")), "order: expected each"),
        (lambda: TokenizeConfig(order=("attic",)), "order: expected some"),  # type: ignore[arg-type]
        (lambda: TokenizeConfig(models={"m": ""}), "models"),
    ],
)
def test_value_out_of_range_is_named_with_its_path(make: Callable[[], object], path: str) -> None:
    with pytest.raises(ConfigError, match=path):
        make()


def test_bounds_are_allowed() -> None:
    TokenizeConfig(look_s=0, memo_bytes_max=0, check_share=1.0, order=())
