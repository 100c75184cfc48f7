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
# name -> elements and bytes of a block, the bytes at which its float16 numbers stand
FORMATS = {
    "q8_0": (32, 34, (0,)),
    "q4_0": (32, 18, (0,)),
    "q4_1": (32, 20, (0, 2)),
    "q5_0": (32, 22, (0,)),
    "q5_1": (32, 24, (0, 2)),
    "q4_k": (256, 144, (0, 2)),
    "q5_k": (256, 176, (0, 2)),
    "q6_k": (256, 210, (208,)),
    "mxfp4": (32, 17, ()),
}


def main() -> None:
    (library,) = (Path(llama_cpp.__file__).parent / "lib").glob("libggml-base.so")
    ggml = ctypes.CDLL(str(library))
    rng = np.random.default_rng(5)
    golden = {}
    for name, (elements, nbytes, halves) in FORMATS.items():
        blocks = BLOCKS * 32 // elements if elements == 32 else 8
        data = rng.integers(0, 256, (blocks, nbytes), dtype=np.uint8)
        numbers = (rng.standard_normal((blocks, len(halves))) * 0.1).astype("<f2").view(np.uint8)
        for i, at in enumerate(halves):
            data[:, at : at + 2] = numbers[:, 2 * i : 2 * i + 2]
        values = np.empty(blocks * elements, np.float32)
        function = getattr(ggml, f"dequantize_row_{name.replace('_k', '_K')}")
        function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
        function.restype = None
        function(data.ctypes.data, values.ctypes.data, values.size)
        golden[name] = {"blocks": data.tobytes().hex(), "float32": values.tobytes().hex()}
    (Path(__file__).parent / "golden_blocks.json").write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
