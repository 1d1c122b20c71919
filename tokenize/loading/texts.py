"""What may come as a text and as a model's name."""

from __future__ import annotations

from kvatlas.index.errors import InputError
from kvatlas.tokenize.config import TokenizeLimits

NAME_LENGTH_MAX = 512


def check_text(text: str, limits: TokenizeLimits, where: str = "prompt") -> None:
    """Raises InputError unless `text` is a string of at most `limits.text_bytes_max` bytes of UTF-8."""
    if not isinstance(text, str):
        raise InputError(f"{where}: expected a string, got a {type(text).__name__}")
    n_bytes_max = limits.text_bytes_max
    # A character takes one to four bytes: most texts need not be encoded to be judged.
    if len(text) * 4 <= n_bytes_max or (len(text) <= n_bytes_max and text.isascii()):
        return
    n_bytes = len(text) if len(text) > n_bytes_max else len(text.encode("utf-8", "surrogatepass"))
    if n_bytes > n_bytes_max:
        raise InputError(
            f"{where}: expected at most {n_bytes_max} bytes (limits.text_bytes_max), got {n_bytes} or more"
        )


def check_name(model: str) -> None:
    """Raises InputError unless `model` can be a model's name: a short string of printable characters."""
    if not isinstance(model, str):
        raise InputError(f"model: expected a name, got a {type(model).__name__}")
    if not model or len(model) > NAME_LENGTH_MAX:
        raise InputError(f"model: expected a name of 1 to {NAME_LENGTH_MAX} characters, got {len(model)}")
    if not model.isprintable():
        raise InputError(f"model: expected printable characters, got {model!r}")


def is_inside(model: str) -> bool:
    """Whether a name, taken for a path, stays below the folder where it is looked up."""
    return "\\" not in model and not any(part in ("", ".", "..") for part in model.split("/"))
