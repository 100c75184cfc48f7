"""GGUF's tokenizers against llama.cpp: every pre-tokenizer and every kind of vocabulary, by digests of its ids."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from golden_kinds import CASES, Case, as_llama_cpp, chunk_numbers, digest, vocabulary_file
from tokenizer_corpus import CHUNK, SIZE, chunks, corpus
from tokenizer_vocabs import byte_vocabulary
from tokenizers import Tokenizer

from deploykit.checkpoint.gguf import read_header
from deploykit.checkpoint.gguf_metadata import Metadata
from deploykit.checkpoint.pretokenizers import PRE_TOKENIZERS
from deploykit.checkpoint.tokenizers import ggml

GOLDEN = json.loads((Path(__file__).parent / "golden_tokenizers.json").read_text())


def built(case: Case, path: Path) -> Tokenizer:
    file = path / "vocab.gguf"
    if case.kind == "gpt2":  # with llama.cpp's approximations
        vocabulary = byte_vocabulary()
        pre = as_llama_cpp(PRE_TOKENIZERS[case.pre], case.pre)
        tokenizer = ggml.bpe(vocabulary.tokens, vocabulary.kinds, vocabulary.merges, pre, file=file)
    else:
        vocabulary_file(case, file)
        tokenizer = ggml.read(Metadata(file, read_header(file).metadata)).build()
    tokenizer.encode_special_tokens = not case.special
    return tokenizer


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_ids_equal_llama_cpp(case: Case, tmp_path: Path) -> None:
    tokenizer = built(case, tmp_path)
    whole = chunks()
    wanted = GOLDEN[case.name]
    assert len(wanted) == len(whole) == SIZE // CHUNK
    for n in chunk_numbers(case, len(whole)):
        ids = [e.ids for e in tokenizer.encode_batch(list(whole[n]), add_special_tokens=False)]
        got = digest(zip(whole[n], ids, strict=True), case.comparable)
        assert got == wanted[n], (
            f"texts {n * CHUNK} to {(n + 1) * CHUNK}: make_golden_tokenizers.py asks llama.cpp"
        )


def test_every_name_of_the_table_is_compared() -> None:
    compared = {PRE_TOKENIZERS[case.pre] for case in CASES if case.pre in PRE_TOKENIZERS}
    lines = PRE_TOKENIZERS["sarvam-moe"]  # as gemma4, but for BOS
    assert set(PRE_TOKENIZERS.values()) <= compared | {lines}
    assert len(PRE_TOKENIZERS) >= 90


def test_the_documentation_lists_every_name() -> None:
    page = (Path(__file__).parents[2] / "docs" / "tokenizers.md").read_text()
    table = page.partition("| names | cut |")[2].partition("\n\n")[0]
    assert set(re.findall(r"`([^`]+)`", table)) == set(PRE_TOKENIZERS)


def test_most_texts_are_comparable() -> None:
    for comparable in {case.comparable for case in CASES}:
        assert sum(map(comparable, corpus())) > 0.75 * SIZE, comparable.__doc__


@pytest.mark.parametrize("name", ["tekken", "gpt-4o", "youtu", "tiny_aya", "kimi-k2"])
def test_letters_with_case_are_cut_as_the_model_cuts_them(name: str, tmp_path: Path) -> None:
    """llama.cpp tells capitals within ASCII only, or not at all; the models' expressions know them all."""
    case = next(c for c in CASES if c.pre == name)
    file = vocabulary_file(case, tmp_path / "vocab.gguf")
    tokenizer = ggml.read(Metadata(file, read_header(file).metadata)).build()

    def cut(text: str) -> list[str]:
        return [text[a:b] for _, (a, b) in tokenizer.pre_tokenizer.pre_tokenize_str(text)]

    assert cut("приветМир") == ["привет", "Мир"]
    assert cut("helloWorld") == ["hello", "World"]
    assert cut("ÄpfelÜBER") == ["Äpfel", "ÜBER"]
