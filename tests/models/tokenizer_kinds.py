"""Small tokenizers of every kind, trained in a moment, and texts on which they may stumble."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, trainers

CORPUS = (
    "The quick brown fox jumps over the lazy dog. It's 12345 o'clock, isn't it?\n",
    "def main():\n    return [x / 2 for x in range(10)]  # über\r\n\r\n\tnaïve café\n",
    "日本語の文章。 мир и труд! ½ ﬁ Å\n\n<a> user assistant system\nno nono on one\n",
)
SPECIAL = ("<|a|>", "<|b|>", "<|ab|>", "</s>")
NASTY = (
    *("\n", "\r\n", "\r", " ", "  ", "\t", "\x0b", "\x0c", "\x85", "\u2028", "\u00a0", "\u3000", "\u200b"),
    *(
        "\u0301",
        "\u0338",
        "e\u0301",
        "\u1100",
        "\u1161",
        "é",
        "日",
        "本",
        "ß",
        "ſ",
        "İ",
        "ﬁ",
        "½",
        "🙂",
        "\x00",
        "\U0010ffff",
    ),
    *(
        "a",
        "on",
        "no",
        "The",
        "user",
        "X",
        "'s",
        "'S",
        "'",
        "1",
        "12345",
        "/",
        "//",
        "!",
        "?/",
        "_",
        "-",
        ".",
        "#",
    ),
    *("<", "|", ">", "<|", "<|a", "|>", "<s", "</s", "¨", "\u1fef", "\u2000"),
)
"""Parts of texts that tokenizers treat specially, mostly where they meet."""


def byte_level_bpe(pre_tokenizer: Any = None, normalizer: Any = None) -> Tokenizer:
    """BPE over bytes, with GPT-2's pre-tokenizer where none is named."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer or pre_tokenizers.ByteLevel(add_prefix_space=False)
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    _train(tokenizer, trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False))
    return tokenizer


def metaspace_bpe(prepend_scheme: str, *, split: bool = True) -> Tokenizer:
    """BPE over characters with spaces made visible, as of SentencePiece."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prepend_scheme, split=split)
    _train(tokenizer, trainers.BpeTrainer(vocab_size=300, special_tokens=["<unk>"], show_progress=False))
    return tokenizer


def prepending_bpe() -> Tokenizer:
    """As Llama 2: normalizers put a space before the text; no pre-tokenizer."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    _train(tokenizer, trainers.BpeTrainer(vocab_size=300, special_tokens=["<unk>"], show_progress=False))
    return tokenizer


def unigram() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    trainer = trainers.UnigramTrainer(
        vocab_size=200, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False
    )
    _train(tokenizer, trainer)
    return tokenizer


def word_piece() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    _train(
        tokenizer, trainers.WordPieceTrainer(vocab_size=300, special_tokens=["[UNK]"], show_progress=False)
    )
    return tokenizer


def word_level() -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    _train(tokenizer, trainers.WordLevelTrainer(special_tokens=["[UNK]"], show_progress=False))
    return tokenizer


KINDS: dict[str, Callable[[], Tokenizer]] = {
    "byte-level BPE": byte_level_bpe,
    "byte-level BPE with a prefix space": lambda: byte_level_bpe(
        pre_tokenizers.ByteLevel(add_prefix_space=True)
    ),
    "byte-level BPE, NFC": lambda: byte_level_bpe(normalizer=normalizers.NFC()),
    "byte-level BPE, lower case": lambda: byte_level_bpe(normalizer=normalizers.Lowercase()),
    "byte-level BPE, stripped": lambda: byte_level_bpe(normalizer=normalizers.Strip()),
    "Metaspace always": lambda: metaspace_bpe("always"),
    "Metaspace always, unsplit": lambda: metaspace_bpe("always", split=False),
    "Metaspace never": lambda: metaspace_bpe("never"),
    "prepended": prepending_bpe,
    "Unigram": unigram,
    "WordPiece": word_piece,
    "WordLevel": word_level,
}


def with_tokens(tokenizer: Tokenizer, tokens: Sequence[str | AddedToken] = SPECIAL) -> Tokenizer:
    """The same tokenizer with added tokens, special ones where they are texts."""
    for token in tokens:
        if isinstance(token, str):
            tokenizer.add_special_tokens([token])
        else:
            tokenizer.add_tokens([token])
    return tokenizer


def _train(tokenizer: Tokenizer, trainer: Any) -> None:
    tokenizer.train_from_iterator(CORPUS * 3, trainer)
