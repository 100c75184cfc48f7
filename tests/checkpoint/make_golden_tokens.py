"""Writes golden_tokens.json. Run by hand, with the model's file and a Python that has llama-cpp-python:

    python tests/checkpoint/make_golden_tokens.py SmolLM2-135M-Instruct.Q4_1.gguf /path/to/oracle/bin/python

llama.cpp's vocabulary-only load tokenizes every text twice: special tokens recognised, and as plain text. The other
pre-tokenizers are asked through copies of the file's vocabulary under another `tokenizer.ggml.pre`. The texts come
from golden_texts.py; only ids are kept.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from gguf_writer import int32_list, write_gguf
from golden_texts import golden_texts

from deploykit.checkpoint.gguf import read_header

PRE_TOKENIZERS = ("smollm", "gpt-2", "default", "llama-bpe", "qwen2")
ORACLE = """
import json, sys, llama_cpp
model = llama_cpp.Llama(sys.argv[1], vocab_only=True, verbose=False)
texts = json.load(sys.stdin)
print(json.dumps({kind: [model.tokenize(t.encode(), add_bos=False, special=special) for t in texts]
                  for kind, special in (("special", True), ("plain", False))}))
"""


def main() -> None:
    model, oracle = sys.argv[1:]
    metadata = dict(read_header(Path(model)).metadata)
    metadata["tokenizer.ggml.token_type"] = int32_list(metadata["tokenizer.ggml.token_type"])
    golden: dict[str, dict[str, list[list[int]]]] = {}
    for pre in PRE_TOKENIZERS:
        with tempfile.TemporaryDirectory() as folder:
            path = write_gguf(Path(folder) / "vocab.gguf", metadata | {"tokenizer.ggml.pre": pre})
            run = subprocess.run(
                [oracle, "-c", ORACLE, str(path)],
                input=json.dumps(golden_texts()),
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
            golden[pre] = json.loads(run.stdout)
    lines = ",\n".join(
        f'"{pre}": {{\n'
        + ",\n".join(f'"{k}": {json.dumps(v, separators=(",", ":"))}' for k, v in kinds.items())
        + "}"
        for pre, kinds in golden.items()
    )
    (Path(__file__).parent / "golden_tokens.json").write_text("{\n" + lines + "\n}\n")


if __name__ == "__main__":
    main()
