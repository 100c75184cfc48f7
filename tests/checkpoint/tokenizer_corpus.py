"""Texts for comparing tokenizers, made up and the same on every machine: many languages and scripts, code, digits, runs
of white space, emoji and their joiners, combining marks, control characters, and names of special tokens."""

# ruff: noqa: E501, RUF005, SIM905
from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache

SIZE = 20_000
CHUNK = 500

_WORDS = {
    "latin": "the of and model token don't I'll WE'RE she'd they've naïve über Größe Straße façade déjà œuvre El niño "
    "mañana não coração è già perché Zażółć gęślą kůň žluťoučký Árvíztűrő fúrógép şoför çabucak İstanbul ılık ærø ång "
    "Tiếng Việt nhiều dấu ổn HELLO World hElLo camelCase snake_case PascalCase XMLHttpRequest iPhone",
    "cyrillic": "привет мир ещё этих мягких французских булок Їжак ґанок щастя Ћирилица ќерка Ўзбек ҒАРЫШ сөз",
    "greek": "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία ΑΒΓ ἄνθρωπος λόγος ὀξύς",
    "rtl": "שלום עולם מה שלומך مرحبا بالعالم كيف حالك سلام دنیا چطور שָׁלוֹם مَرْحَبًا ٱلسَّلَامُ ﻻ ﷺ",
    "indic": "नमस्ते दुनिया क्या ক্ষুদ্র বাংলা ভাষা தமிழ் மொழி తెలుగు ಕನ್ನಡ മലയാളം ગુજરાતી ਪੰਜਾਬੀ සිංහල",
    "southeast": "สวัสดีชาวโลก ทำไม น้ำ ສະບາຍດີ မင်္ဂလာပါ ភាសាខ្មែរ កាន់តែពិសេស",
    "cjk": "你好世界 今天天气怎么样 繁體中文測試 こんにちは カタカナ ひらがな 漢字 ﾊﾝｶｸ ｶﾞｷﾞ ＡＢＣ１２３ 안녕하세요 한국어 ㄱㄴㄷ ㄅㄆㄇ 々〆 𠮷野家",
    "other": "გამარჯობა Բարեւ አማርኛ ᚠᛇᚻ 𐌰𐌱𐌲 𝕳𝖊𝖑𝖑𝖔 𝟘𝟙 ⠓⠑ Ꭰ ꮳꮃꭹ ᠮᠣᠩᠭᠣᠯ ⵣ ߒߞߏ",
}
_CODE = (
    "def f(x): return x[1:-1] # note|for (int i = 0; i < n; ++i) {|\treturn a->b(c, *d);|}|if x == 'y' and z != \"w\":|"
    "    self.value += 1.5e-3|const g = async (x) => await h(x?.y ?? 0);|SELECT a.*, COUNT(*) FROM t WHERE b <> 'c';|"
    '<div class="x">&nbsp;</div>|{"key": [1, 2.5, null, true]}|\\frac{a}{b} $x_i^2$|#include <stdio.h>|'
    "https://example.com/a/b?c=d&e=%20f#g|/usr/local/lib/python3.11/|C:\\Windows\\System32|git commit -m 'fix'|x = y = 0|"
    '// TODO(me): !!!|/* ... */|@decorator|$HOME/${VAR:-x}|printf("%d\\n", i);|assert a<=b>=c!=d|let mut v: Vec<u8>|```py'
).split("|")
_SPACES = [" ", "  ", "   ", "    ", "\t", "\t\t", "\n", "\n\n", "\n\n\n", "\r\n", "\r", " \n", "\n ", " \t ", "\n    ",
           "\u00a0", "\u3000", "\u2009", "\u2028", "\u0085", "\x0b", "\x0c", "\u200b", ""]  # fmt: skip
_EMOJI = "😀 🎉 👨‍👩‍👧‍👦 👩🏽‍💻 🏳️‍🌈 🇩🇪🇫🇷 ❤️ ☎️ ©️ ™ 2️⃣ 🦙 ✅ 😶‍🌫️ 🧑🏿‍🚀 ⚡".split()
_MARKS = [
    chr(c)
    for c in (*range(0x300, 0x315), 0x323, 0x327, 0x328, 0x32D, 0x338, 0x345, 0x20DD, 0x3099, 0x5B8, 0x64E)
]
_CONTROLS = [*map(chr, range(0x00, 0x09)), "\x0e", "\x1b", "\x1f", "\x7f", "\x80", "\x9f", "\u200c", "\u200d", "\u200e",
             "\u202e", "\u2060", "\ufeff", "\ufffd", "\ufffe", "\U000e0001", "\U0010ffff", "\ue000", "\u00ad"]  # fmt: skip
_SPECIAL = ["<s>", "</s>", "<unk>", "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "[INST]", "[/INST]",
            "<tool>", "<|x|>", "<0x0A>", "<|im_", "end|>", "▁", "<<s>>", "< s>", "[CLS]", "##ing"]  # fmt: skip
_PUNCTUATION = list("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~") + ["...", "?!", "—", "–", "“”", "‘’", "·", "…", "、", "。", "！", "，",
    "«»", "¿", "¡", "$5", "€", "£", "¥", "±", "×", "≤", "∑", "→", "█", "░", "°", "§", "¶", "†", "--", "==", "''", "'s", "'LL"]  # fmt: skip
_NUMBERS = ["½", "²", "Ⅳ", "①", "٣", "१२३", "〇", "十", "๓"]


def _number(rng: random.Random) -> str:
    kind = rng.randrange(5)
    if kind == 0:
        return str(rng.randrange(10 ** rng.randint(1, 12)))
    if kind == 1:
        return f"{rng.randrange(10**7):,}.{rng.randrange(100)}"
    if kind == 2:
        return f"{rng.randrange(1900, 2100)}-{rng.randrange(1, 13):02}-{rng.randrange(1, 29):02}"
    if kind == 3:
        return rng.choice(["0x", "v", "#", "-", "+", "$", ".", "1e"]) + str(rng.randrange(100000))
    return rng.choice(_NUMBERS) * rng.randint(1, 3)


def _words(rng: random.Random) -> str:
    words = rng.choice(list(_WORDS.values())).split()
    return "".join(
        rng.choice(words) + rng.choice([" ", " ", " ", ", ", ". ", "-", ""]) for _ in range(rng.randint(1, 6))
    )


def _mixed(rng: random.Random) -> str:
    return "".join(rng.choice(_PARTS)(rng) for _ in range(rng.randint(2, 6)))


def _runs(rng: random.Random) -> str:
    unit = rng.choice(
        [" ", "\n", "\t", "=", "-", "a", "ab", "A", "0", "字", "é", "!", "▁", "\r\n", "aA", ". "]
    )
    return unit * rng.randint(1, rng.choice([4, 12, 40]))


_PARTS: list[Callable[[random.Random], str]] = [
    _words,
    _number,
    _runs,
    lambda r: r.choice(_CODE),
    lambda r: r.choice(_SPACES) * r.randint(1, 3),
    lambda r: r.choice(_EMOJI),
    lambda r: r.choice("aeoAEnßИα字かक ") + "".join(r.choice(_MARKS) for _ in range(r.randint(1, 3))),
    lambda r: r.choice(_CONTROLS),
    lambda r: r.choice(_SPECIAL),
    lambda r: r.choice(_PUNCTUATION) * r.choice([1, 1, 1, 2, 3]),
    lambda r: "".join(chr(r.randrange(0x20, 0x250)) for _ in range(r.randint(1, 8))),
]


@cache
def corpus(size: int = SIZE) -> tuple[str, ...]:
    """`size` texts; the first are each part by itself, the rest mixtures."""
    rng = random.Random(20240229)
    texts = [part(rng) for part in _PARTS for _ in range(60)]
    texts += [_words(rng) + rng.choice(_SPACES) + _words(rng) for _ in range(2000)]
    while len(texts) < size:
        texts.append(_mixed(rng))
    return tuple(texts[:size])


def chunks() -> list[tuple[str, ...]]:
    texts = corpus()
    return [texts[i : i + CHUNK] for i in range(0, len(texts), CHUNK)]
