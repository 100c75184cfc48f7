"""Writes golden_tokenizers.json. Run by hand, with a Python that has llama-cpp-python:

    python tests/checkpoint/make_golden_tokenizers.py /path/to/oracle/bin/python [--pieces] [CASE …]

llama.cpp's vocabulary-only load tokenizes the whole corpus for every pre-tokenizer and every kind of vocabulary; of
each chunk of texts only a digest of its ids is kept. `--pieces` trains golden_pieces.json anew first, which needs
sentencepiece. With names, only those cases are made anew.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from golden_kinds import CASES, chunk_numbers, digest, vocabulary_file
from tokenizer_corpus import chunks, corpus
from tokenizer_vocabs import CONTROLS, PIECES

GOLDEN = Path(__file__).parent / "golden_tokenizers.json"
ORACLE = """
import json, sys, llama_cpp
model = llama_cpp.Llama(sys.argv[1], vocab_only=True, verbose=False)
for line in sys.stdin:
    text, special = json.loads(line)
    print(json.dumps(model.tokenize(text.encode(), add_bos=False, special=special)))
"""


def train_pieces() -> None:
    import sentencepiece

    made = {}
    for kind in ("bpe", "unigram"):
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(t for t in corpus(8000) if t.strip() and "\\0" not in t),
            model_writer=model,
            model_type=kind,
            vocab_size=2500,
            byte_fallback=kind == "bpe",
            character_coverage=0.98,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            control_symbols=CONTROLS[2:],
            user_defined_symbols=["<tool>"],
            minloglevel=2,
        )
        processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
        rows = []
        for i in range(processor.get_piece_size()):
            k = (
                2
                if processor.is_unknown(i)
                else 3
                if processor.is_control(i)
                else 6
                if processor.is_byte(i)
                else 1
            )
            text = processor.id_to_piece(i)
            rows.append([text, round(processor.get_score(i), 4), 4 if text == "<tool>" else k])
        made[kind] = rows
    PIECES.write_text(json.dumps(made, ensure_ascii=False, separators=(",", ":")) + "\n")


def main() -> None:
    oracle, *names = sys.argv[1:]
    if "--pieces" in names:
        names.remove("--pieces")
        train_pieces()
    golden: dict[str, list[str | None]] = json.loads(GOLDEN.read_text()) if names else {}
    whole = chunks()
    for case in CASES:
        if names and case.name not in names:
            continue
        numbers = chunk_numbers(case, len(whole), asked=True)
        lines = "".join(json.dumps([text, case.special]) + "\n" for n in numbers for text in whole[n])
        with tempfile.TemporaryDirectory() as folder:
            path = vocabulary_file(case, Path(folder) / "vocab.gguf")
            run = subprocess.run(
                [oracle, "-c", ORACLE, str(path)], input=lines, stdout=subprocess.PIPE, text=True, check=True
            )
        ids = iter([json.loads(line) for line in run.stdout.splitlines()])
        rows: list[str | None] = [None] * len(whole)
        for n in numbers:
            rows[n] = digest([(text, next(ids)) for text in whole[n]], case.comparable)
        golden[case.name] = rows
    order = [case.name for case in CASES if case.name in golden]
    text = ",\n".join(f"{json.dumps(name)}: {json.dumps(golden[name])}" for name in order)
    GOLDEN.write_text("{\n" + text + "\n}\n")


if __name__ == "__main__":
    main()
