"""How a vocabulary cuts text before its merges apply: `tokenizer.ggml.pre` -> the regular expressions behind the name.

Each name stands for a list of expressions, applied one after the other: every match and every stretch between
matches becomes a piece, which the next expression cuts further. The names are those that llama.cpp's converters
write; the expressions are those of the models' own tokenizers, which llama.cpp approximates in places (it tells
capitals from small letters within ASCII only, and leaves out NFC).
"""

from __future__ import annotations

from typing import NamedTuple

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_CONTRACTIONS = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
_SPACES = r"\s+(?!\S)|\s+"
_TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|" + _SPACES
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_LLAMA3 = rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}{{1,3}}{_TAIL}"
_QWEN2 = rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}{_TAIL}"
_QWEN35 = (
    _CONTRACTIONS
    + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    + _SPACES
)

# Words by case: capitals, then small letters. Letters without case and marks are both.
UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"


def _cased(upper: str, lower: str, suffix: str = "") -> str:
    lead = r"[^\r\n\p{L}\p{N}]?"
    return f"{lead}{upper}*{lower}+{suffix}|{lead}{upper}+{lower}*{suffix}"


_CASED_TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|" + _SPACES
_TEKKEN = _cased(UPPER, LOWER) + r"|\p{N}" + _CASED_TAIL
_CASED_CONTRACTED = _cased(UPPER, LOWER, _CONTRACTIONS + "?")
_GPT4O = _CASED_CONTRACTED + r"|\p{N}{1,3}" + _CASED_TAIL
_NOT_HAN = r"&&[^\p{Han}]]"
_KIMI = (
    r"\p{Han}+|"
    + _cased(UPPER[:-1] + _NOT_HAN, LOWER[:-1] + _NOT_HAN, _CONTRACTIONS + "?")
    + r"|\p{N}{1,3}"
    + _TAIL
)

# DeepSeek: letters of the scripts that have case (ranges of code points), ASCII and full-width punctuation, CJK.
_CASED_SCRIPTS = (
    "41-5A 61-7A B5 C0-D6 D8-F6 F8-1BA 1BC-1BF 1C4-293 295-2AF 370-373 376 377 37B-37D 37F 386 388-38A "
    "38C 38E-3A1 3A3-3F5 3F7-481 48A-52F 531-556 10A0-10C5 13A0-13F5 13F8-13FD 1C90-1CBA 1CBD-1CBF "
    "1D00-1D2B 1D6B-1D77 1D79-1D9A 1E00-1F15 1F18-1F1D 1F20-1F45 1F48-1F4D 1F50-1F57 1F59 1F5B 1F5D "
    "1F5F-1F7D 1F80-1FB4 1FB6-1FBC 1FBE 1FC2-1FC4 1FC6-1FCC 1FD0-1FD3 1FD6-1FDB 1FE0-1FEC 1FF2-1FF4 "
    "1FF6-1FFC 2102 2107 210A-2113 2115 2119-211D 2124 2126 2128 212A-212D 212F-2134 2139 213C-213F "
    "2145-2149 214E 2183 2184 2C00-2C7B 2C7E-2CE4 2CEB-2CEE 2CF2 2CF3 A640-A66D A680-A69B A722-A76F "
    "A771-A787 A78B-A78E AB70-ABBF FB00-FB06 FB13-FB17 FF21-FF3A FF41-FF5A 10400-1044F 104B0-104D3 "
    "104D8-104FB 10C80-10CB2 10CC0-10CF2 118A0-118DF 1E900-1E943"
)
_DEEPSEEK_LETTERS = (
    r"\s?["
    + "".join("-".join(rf"\x{{{end}}}" for end in part.split("-")) for part in _CASED_SCRIPTS.split())
    + "]+"
)
_DEEPSEEK_PUNCTUATION = r"\s?[!-/:-~！-／：-～‘-‟　-。]+"
_DEEPSEEK_CJK = "[一-龥ࠀ-一가-퟿]+"
_CJK_KANA = "[一-龥぀-ゟ゠-ヿ]+"
_ASCII_PUNCTUATED = r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"
_MARKED_WORD = r"[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
_DEEPSEEK3 = (
    r"\p{N}{1,3}",
    _CJK_KANA,
    rf"{_ASCII_PUNCTUATED}|{_MARKED_WORD}| ?[\p{{P}}\p{{S}}]+[\r\n]*|\s*[\r\n]+|{_SPACES}",
)
_SPARK = (
    r"\p{N}{1,3}",
    _CJK_KANA,
    rf"{_ASCII_PUNCTUATED}|{_MARKED_WORD}| ?[\p{{P}}\p{{S}}]+|[\r\n]|{_SPACES}",
    r"\p{N}",
)
# Digits in groups of three from the right: 1234567 -> 1 234 567. The models' own expressions count what is left at
# every digit; these look ahead at the first alone, so that a long number takes no longer than any text.
_DIGITS_FROM_THE_RIGHT = r"(?<!\p{N})\p{N}{1,2}(?=(?:\p{N}{3})+(?!\p{N}))|\p{N}{3}|\p{N}+"
_DECIMALS_FROM_THE_RIGHT = r"(?<!\d)\d{1,2}(?=(?:\d{3})+(?!\d))|\d{3}"
_AFMOE_CJK = "[一-鿿㐀-䶿豈-﫿぀-ゟ゠-ヿ･-ﾟ⼀-⿟เ-๿຀-໿ក-៿က-႟ꩠ-ꩿꧠ-꧿가-힯ᄀ-ᇿ]+"
_YOUTU_CJK = "[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥぀-ゟ゠-ヿ]+"
_BLOOM = r" ?[^(\s|.,!?…。，、।۔،)]+"
_JAIS2_SPACES = "".join(rf"|\s{{{n}}}(?!\S)" for n in (512, 256, 128, 64, 32, 16, 8, 4))
_EXAONE_MOE = (
    _CONTRACTIONS
    + r"|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|"
    + _SPACES
)


class PreTokenizer(NamedTuple):
    patterns: tuple[str, ...]
    nfc: bool = False  # text is composed (Unicode NFC) first
    whole_words: bool = False  # a piece that is a token is taken as it is, whatever the merges say
    add_bos: bool = False  # where the file doesn't say
    byte_level: bool = True  # False: spaces are written as ▁, and bytes outside the vocabulary as <0x0A>


_ONE_DIGIT = PreTokenizer((r"\p{N}", _GPT2))  # every digit on its own
_PLAIN = PreTokenizer((_GPT2,))
_NEOX = PreTokenizer((_GPT2,), nfc=True)
_LLAMA = PreTokenizer((_LLAMA3,), whole_words=True, add_bos=True)
_QWEN = PreTokenizer((_QWEN2,))
_BAILING = PreTokenizer(
    (
        r"'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|"
        + _WORD
        + r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|"
        + _SPACES,
    )
)
_LINES = PreTokenizer((r"[^\n]+|[\n]+",), byte_level=False)
_GROUPS: dict[PreTokenizer, str] = {
    _PLAIN: "gpt-2 phi-2 jina-es jina-de gigachat jina-v2-es jina-v2-de a.x-4.0 mellum jina-v1-en jina-v2-code"
    " roberta-bpe jais trillion granite-docling exaone4",
    _NEOX: "mpt olmo modern-bert",
    _ONE_DIGIT: "smollm starcoder refact codeshell exaone minerva-7b mellum2",
    _ONE_DIGIT._replace(nfc=True): "command-r",
    PreTokenizer((r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", r"[0-9][0-9][0-9]")): "default",
    PreTokenizer((r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, r"[0-9][0-9][0-9]")): "falcon",
    _LLAMA: "llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano",
    _LLAMA._replace(whole_words=False, add_bos=False): "dbrx smaug-bpe chatglm-bpe",
    _LLAMA._replace(add_bos=False): "glm4 glm5",
    PreTokenizer(
        (rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+{_JAIS2_SPACES}"
         r"|\s{1,2}(?!\S)|\s{1}",)
    ): "jais-2",
    PreTokenizer((r"\p{N}{1,3}", rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}+{_TAIL}"), whole_words=True): "minicpm5",
    _QWEN._replace(nfc=True): "qwen2 megrez f2llmv2",
    _QWEN: "deepseek-r1-qwen kormo stablelm2 hunyuan solar-open grok-2",
    PreTokenizer((_QWEN35,), nfc=True): "qwen35",
    PreTokenizer((_WORD + r"|\p{N}" + _TAIL,)): "ufakzeka",
    PreTokenizer((r"[^\n]+|[\n]+", _QWEN2)): "laguna",
    PreTokenizer(
        (rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|\s*[\r\n]+|{_SPACES}",)
    ): "seed-coder",
    _BAILING: "bailingmoe bailingmoe2 llada-moe",
    PreTokenizer((_EXAONE_MOE,)): "exaone-moe",
    PreTokenizer(
        (r"[\r\n]", _DEEPSEEK_LETTERS, _DEEPSEEK_PUNCTUATION, r"(?<!\s)\s++$", _DEEPSEEK_CJK, r"\p{N}+")
    ): "deepseek-llm",
    PreTokenizer((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _DEEPSEEK_CJK, r"\p{N}")): "deepseek-coder",
    PreTokenizer(_DEEPSEEK3): "deepseek-v3 hunyuan-dense joyai-llm hy_v4",
    PreTokenizer(_SPARK): "spark2_5",
    PreTokenizer((_DIGITS_FROM_THE_RIGHT, _AFMOE_CJK, _DEEPSEEK3[2])): "afmoe",
    PreTokenizer((_YOUTU_CJK, _CASED_CONTRACTED + r"|\p{N}" + _CASED_TAIL), whole_words=True): "youtu",
    PreTokenizer((_TEKKEN,), whole_words=True, add_bos=True): "tekken",
    PreTokenizer((_GPT4O,)): "gpt-4o llama4 kanana2 talkie minimax-m2",
    PreTokenizer((_GPT4O,), whole_words=True): "granite-embed-multi-97m",
    PreTokenizer((_DIGITS_FROM_THE_RIGHT, _GPT4O)): "tiny_aya cohere2moe",
    PreTokenizer((_KIMI,)): "kimi-k2",
    PreTokenizer((_BLOOM,)): "bloom poro-chat gpt3-finnish",
    PreTokenizer((_BLOOM, r"\p{N}")): "viking",
    PreTokenizer(
        (
            r"<sentinel:[0-9]+>",
            r"(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z",
            r"([\t\n]|    |  )",
            r"\p{N}",
            r"[\p{P}!-/:-@\[-`{-~]",
            _GPT2,
        ),
        add_bos=True,
    ): "chameleon",
    PreTokenizer((r"\p{N}+", _DECIMALS_FROM_THE_RIGHT)): "superbpe",
    _LINES._replace(add_bos=True): "gemma4 granite-embed-multi-311m",
    _LINES: "sarvam-moe",
}  # fmt: skip

PRE_TOKENIZERS: dict[str, PreTokenizer] = {
    name: pre for pre, names in _GROUPS.items() for name in names.split()
}

# Models whose files name no pre-tokenizer (vocab.json with merges.txt, tiktoken): `model_type` of config.json.
# The longest name that the type begins with counts.
BY_MODEL_TYPE: dict[str, str] = {
    "qwen": "qwen2",
    "qwen3_5": "qwen35",
    "llama": "llama-bpe",
    "mllama": "llama-bpe",
    "llama4": "llama4",
    "chatglm": "chatglm-bpe",
    "glm": "glm4",
    "dbrx": "dbrx",
    "phi3small": "dbrx",
    "stablelm": "stablelm2",
    "kimi": "kimi-k2",
    "deepseek_v3": "kimi-k2",  # Kimi K2's own files; DeepSeek's have a tokenizer.json
    "hunyuan": "hunyuan",
    "gpt_oss": "gpt-4o",
    "gpt_bigcode": "starcoder",
    "starcoder2": "starcoder",
    "gpt_neox": "olmo",
    "olmo": "olmo",
    "mpt": "mpt",
    "cohere": "command-r",
    "exaone": "exaone",
    "smollm3": "llama-bpe",
    "bloom": "bloom",
    "falcon": "falcon",
    "falcon_h1": "falcon-h1",
    "gpt2": "gpt-2",
    "gpt_neo": "gpt-2",
    "gptj": "gpt-2",
    "opt": "gpt-2",
    "codegen": "gpt-2",
    "phi": "gpt-2",
    "phi3": "dbrx",  # Phi 4's, whose vocabulary is GPT-4's
    "olmo2": "dbrx",
    "olmo3": "dbrx",
}


# And `tokenizer_class` of tokenizer_config.json, which says it where the type doesn't.
BY_TOKENIZER_CLASS: dict[str, str] = {
    "GPT2Tokenizer": "gpt-2",
    "CodeGenTokenizer": "gpt-2",
    "Qwen2Tokenizer": "qwen2",
    "Qwen3_5Tokenizer": "qwen35",
    "GPTNeoXTokenizer": "olmo",
    "CohereTokenizer": "command-r",
}


def for_model_type(model_type: str, tokenizer_class: str = "") -> str | None:
    """The name of the pre-tokenizer that models of this type use; None where none is known."""
    known = [prefix for prefix in BY_MODEL_TYPE if model_type.startswith(prefix)]
    if known:
        return BY_MODEL_TYPE[max(known, key=len)]
    return BY_TOKENIZER_CLASS.get(tokenizer_class)
