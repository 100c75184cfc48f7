"""Writes golden_blocks.json: random quantized blocks and what ggml's own dequantize_row_* makes of them, as hex.

Run by hand, in an environment of its own that has llama-cpp-python (its wheel brings libggml-base) and numpy:

    python tests/checkpoint/make_golden_blocks.py
"""

from __future__ import annotations

import ctypes
import json
from pathlib import Path

import llama_cpp
import numpy as np

BLOCKS = 24


def main() -> None:
    (library,) = (Path(llama_cpp.__file__).parent / "lib").glob("libggml-base.so")
    ggml = ctypes.CDLL(str(library))
    rng = np.random.default_rng(5)
    golden = {}
    for name, nbytes, halves in (("q8_0", 34, 1), ("q4_0", 18, 1), ("q4_1", 20, 2)):
        data = rng.integers(0, 256, (BLOCKS, nbytes), dtype=np.uint8)
        data[:, : 2 * halves] = (rng.standard_normal((BLOCKS, halves)) * 0.1).astype("<f2").view(np.uint8)
        values = np.empty(BLOCKS * 32, np.float32)
        function = getattr(ggml, f"dequantize_row_{name}")
        function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
        function.restype = None
        function(data.ctypes.data, values.ctypes.data, values.size)
        golden[name] = {"blocks": data.tobytes().hex(), "float32": values.tobytes().hex()}
    (Path(__file__).parent / "golden_blocks.json").write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
