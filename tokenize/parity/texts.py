"""Plain texts that tokenizers trip over: white space, unusual characters, special tokens within a text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kvatlas.tokenize.parity.case import Case, plain

WELL_KNOWN = (
    *("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|end|>", "<think>", "</think>", "<tool_call>"),
    *("<s>", "</s>", "[INST]", "<|eot_id|>", "<|begin_of_text|>", "<start_of_turn>", "<bos>", "<unk>"),
)
"""Special tokens of well-known models; to another model each is a text like any other."""

_FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466"
_FLAG = "\U0001f1eb\U0001f1f7"
_TONED = "\U0001f44d\U0001f3fd"

_CODE = """\
class Cache(Generic[K, V]):
\tdef get(self, key: K) -> "V | None":
\t\treturn self._held.get(key)  # None: not held

    if (a[i] != b[-1] && c->d >= 0x7F) { return "\\n\\t%s"; }
"""

CHARACTERS = {
    "CJK": "今日は良い天気ですね。你好，世界！한국어 문장입니다.",
    "emoji, joined, toned, flags": f"ok {_FAMILY}{_TONED} {_FLAG}{_FLAG} ❤️ ©️ 1️⃣",
    "combining marks": "e\u0301 \u00e9 a\u0323\u0302 Z\u0351\u036b\u0343\u036a\u0302 \u212b \ufb01",
    "right to left": "שלום עולם, مرحبا بالعالم \u200fabc\u200e 123 \u202eabc\u202c",
    "Indic and Thai": "नमस्ते दुनिया, สวัสดีชาวโลก, வணக்கம்",
    "Hangul, decomposed": "\u1112\u1161\u11ab\u1100\u1173\u11af 한글",
    "controls": "a\x00b\x01\x07\x08\x0b\x0c\x1b[0m\x7f\x80\x85c",
    "private use and no characters": "\ue000\uf8ff\ufffe\uffff\U000e0001\U0010ffff\ufffd",
    "beyond the first plane": "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𐍈 𠜎 🯅",
    "invisible": "\ufeffa\u200bb\u00adc\u2060d\u180ee",
}

SPACES = {
    "leading and trailing": "  hello  ",
    "nothing else": " \t\n \r\n  ",
    "long runs": "a" + " " * 300 + "b" + "\t" * 40 + "c" + "\n" * 90 + " d",
    "CRLF": "one\r\ntwo\r\n\r\n three\rfour\n\r five\r\n",
    "unusual": "a\u00a0b\u2003c\u3000d\u2028e\u2029f\u1680g\u202fh \u00a0 i",
    "line ends before all kinds": "a\nb\n c\n\nd \n e\t\n\tf\n1\n/\n'\n\u0301\n",
}

_WRITTEN = {
    "a sentence": "The quick brown fox jumps over the lazy dog.",
    "code": _CODE,
    "digits": "1 12 123 1234 12345678901234567890 3.14159 1e-9 0x1F ١٢٣ ½ ²",
    "apostrophes": "I'll we've they're he'd it's I'M DON'T o'clock ' 'tis ''",
    "punctuation": "!!! ??? ... --- ### <<>> (){}[] ,.;: \\/ |||| ~~~~ $$$ &amp; @_@",
    "one letter, often": "a" * 500 + "A" * 100,
    "one word, long": "Donaudampfschifffahrtsgesellschaft" * 12,
    "JSON and a URL": '{"a": [1, null, true], "b": "ü\\u00fc"} https://a.example/b?c=d&e=%20#f',
    "mixed scripts without spaces": "abc你好123вгд🙂éfg٤٥٦",
}


def text_cases(special_tokens: Sequence[str]) -> Iterator[Case]:
    """`special_tokens` are those of the model at hand."""
    yield plain("empty", "")
    yield plain("empty, no special tokens", "", add_special_tokens=False)
    for name, text in (*_WRITTEN.items(), *SPACES.items(), *CHARACTERS.items()):
        yield plain(name, text)
    yield plain("a sentence, no special tokens", _WRITTEN["a sentence"], add_special_tokens=False)
    yield plain("everything, no special tokens", everything(), add_special_tokens=False)
    yield plain("everything, eight times", everything() * 8)
    yield plain("special tokens within", with_tokens(special_tokens))
    yield plain("special tokens within, no others", with_tokens(special_tokens), add_special_tokens=False)
    yield plain("special tokens, cut and doubled", _broken(special_tokens))


def everything() -> str:
    """All of the texts here, as lines."""
    return "\n".join((*_WRITTEN.values(), *SPACES.values(), *CHARACTERS.values()))


def with_tokens(special_tokens: Sequence[str]) -> str:
    """Each between words, with and without spaces, at a line's end, twice."""
    tokens = (*WELL_KNOWN, *special_tokens)
    around = (f"one{token}two {token} three\n{token}\n {token}{token}'s" for token in tokens)
    return "".join((tokens[-1], *around, tokens[0]))


def _broken(special_tokens: Sequence[str]) -> str:
    tokens = (*WELL_KNOWN, *special_tokens)
    return " ".join(
        f"{token[:-1]} {token[1:]} <{token}> {token.upper()} {token}{token[1:]}" for token in tokens
    )
