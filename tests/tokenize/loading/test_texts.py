"""What may come as a text and as a model's name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvatlas.index.errors import InputError
from kvatlas.tokenize.config import TokenizeLimits
from kvatlas.tokenize.loading.texts import check_name, check_text, is_inside


@given(text=st.text(max_size=30), n_bytes_max=st.integers(1, 60))
def test_text_passes_exactly_when_its_bytes_fit(text: str, n_bytes_max: int) -> None:
    limits = TokenizeLimits(text_bytes_max=n_bytes_max)
    if len(text.encode("utf-8")) <= n_bytes_max:
        check_text(text, limits)
    else:
        with pytest.raises(InputError, match="text_bytes_max"):
            check_text(text, limits)


@pytest.mark.parametrize("text", [None, b"bytes", 5, ["a"]])
def test_text_of_another_type_is_refused(text: object) -> None:
    with pytest.raises(InputError, match="expected a string"):
        check_text(text, TokenizeLimits())  # type: ignore[arg-type]


@pytest.mark.parametrize("model", [None, 5, b"m", [], "", "a" * 513, "a\0b", "a\nb", "\ud800"])
def test_what_is_no_name_is_refused(model: object) -> None:
    with pytest.raises(InputError, match="model: expected"):
        check_name(model)  # type: ignore[arg-type]


@pytest.mark.parametrize("model", ["Qwen/Qwen3-0.6B", "a b", "模型", "a..b"])
def test_name_stays_inside(model: str) -> None:
    check_name(model)
    assert is_inside(model)


@pytest.mark.parametrize("model", ["..", "../a", "a/../b", "/etc", "a//b", "a/", ".", "a\\..\\b"])
def test_name_that_could_leave_a_folder_is_known(model: str) -> None:
    assert not is_inside(model)
