"""llama.cpp through its C API, as `llama_cpp` (llama-cpp-python) exposes it. Started by peer_main.py.

Its best is not its high-level `Llama` class: prompts go through `llama_decode` in one batch, the sequences of a batch
are decoded together, the greedy token is taken from the logits with numpy. The file is run as stored and in Q4_0,
which llama.cpp repacks for its fastest 4-bit kernels; each with flash attention and without. Keys and values are f16.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import time
from pathlib import Path
from typing import Any

STORED, Q4_0 = "as stored", "Q4_0"
FLASH, PLAIN = "flash attention", "plain attention"


class Peer:
    name = "llama.cpp"

    def __init__(self) -> None:
        self._model: Any = None
        self._single: Any = None  # context of one sequence
        self._batch: Any = None  # context of many
        self._sequences = 0
        self._vocab = 0

    def version(self) -> str:
        llama_cpp = importlib.import_module("llama_cpp")

        return f"llama-cpp-python {llama_cpp.__version__}"

    # ------------------------------------------------------------ files and settings

    def prepare(self, model_path: str, plain: str | None, folder: str) -> list[dict[str, Any]]:
        """Q4_0 is made with llama.cpp's own quantizer and its choice of types. Raises ValueError without a GGUF."""
        if not model_path.endswith(".gguf"):
            raise ValueError(f"llama.cpp needs a GGUF file, and the model is {model_path}")
        target = Path(folder) / "q4_0.gguf"
        if not target.exists():
            self._quantize(model_path, target)
        names = [f"{file}, {attention}" for file in (Q4_0, STORED) for attention in (FLASH, PLAIN)]
        return [{"name": name, "jobs": ["single", "batch"]} for name in names]

    def _quantize(self, model_path: str, target: Path) -> None:
        llama_cpp = importlib.import_module("llama_cpp")

        params = llama_cpp.llama_model_quantize_default_params()
        params.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0
        params.allow_requantize = True
        partial = target.with_name(f"{target.name}.{os.getpid()}")
        if llama_cpp.llama_model_quantize(model_path.encode(), str(partial).encode(), params):
            raise RuntimeError(f"llama_model_quantize failed for {model_path}")
        os.replace(partial, target)

    def load(
        self, model_path: str, folder: str, setting: str, threads: int, context: int, sequences: int
    ) -> dict[str, Any]:
        llama_cpp = importlib.import_module("llama_cpp")

        file, _, attention = setting.partition(", ")
        path = str(Path(folder) / "q4_0.gguf") if file == Q4_0 else model_path
        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers = 0
        self._model = llama_cpp.llama_model_load_from_file(path.encode(), params)
        if not self._model:
            raise RuntimeError(f"llama.cpp can't load {path}")
        flash = attention == FLASH
        self._single = self._context(threads, context, 1, flash)
        self._sequences = sequences
        if sequences > 1:
            self._batch = self._context(threads, context, sequences, flash)
        self._vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model))
        return {"vocab_size": self._vocab, "kv_dtype": "f16"}

    def _context(self, threads: int, context: int, sequences: int, flash: bool) -> Any:
        llama_cpp = importlib.import_module("llama_cpp")

        params = llama_cpp.llama_context_default_params()
        params.n_ctx = context * sequences
        params.n_batch = 2048
        params.n_ubatch = 512
        params.n_seq_max = sequences
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = 1 if flash else 0
        made = llama_cpp.llama_init_from_model(self._model, params)
        if not made:
            raise RuntimeError(f"llama.cpp can't make a context of {sequences} x {context} tokens")
        return made

    # ------------------------------------------------------------ runs

    def single(self, prompt: list[int], output_len: int) -> tuple[float, float, list[int]]:
        llama_cpp = importlib.import_module("llama_cpp")

        context = self._single
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
        ids = (ctypes.c_int32 * len(prompt))(*prompt)
        one = (ctypes.c_int32 * 1)()
        step = llama_cpp.llama_batch_get_one(one, 1)
        start = time.perf_counter()
        size = llama_cpp.llama_n_batch(context)
        for at in range(0, len(prompt), size):
            part = min(size, len(prompt) - at)
            offset = ctypes.cast(ctypes.byref(ids, at * 4), ctypes.POINTER(ctypes.c_int32))
            self._decode(context, llama_cpp.llama_batch_get_one(offset, part))
        tokens = [self._greedy(context, -1)]
        first = time.perf_counter()
        while len(tokens) < output_len:
            one[0] = tokens[-1]
            self._decode(context, step)
            tokens.append(self._greedy(context, -1))
        return first - start, time.perf_counter() - first, tokens

    def batch(self, prompts: list[list[int]], output_len: int) -> tuple[float, list[int]]:
        llama_cpp = importlib.import_module("llama_cpp")

        context = self._batch
        if len(prompts) > self._sequences or context is None:
            raise ValueError(f"{len(prompts)} prompts, and the context holds {self._sequences} sequences")
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
        size = llama_cpp.llama_n_batch(context)
        work = llama_cpp.llama_batch_init(max(size, len(prompts)), 0, 1)
        try:
            start = time.perf_counter()
            last = [0] * len(prompts)
            entries = [
                (token, position, row, position == len(prompt) - 1)
                for row, prompt in enumerate(prompts)
                for position, token in enumerate(prompt)
            ]
            for at in range(0, len(entries), size):
                self._step(context, work, entries[at : at + size], last)
            for step in range(1, output_len):
                known = [(token, len(prompts[row]) + step - 1, row, True) for row, token in enumerate(last)]
                self._step(context, work, known, last)
            return time.perf_counter() - start, [output_len] * len(prompts)
        finally:
            llama_cpp.llama_batch_free(work)

    def _step(
        self, context: Any, work: Any, entries: list[tuple[int, int, int, bool]], last: list[int]
    ) -> None:
        """Decode (token, position, sequence, wants logits) together; the next tokens go into `last`."""
        work.n_tokens = len(entries)
        for i, (token, position, row, wants) in enumerate(entries):
            work.token[i] = token
            work.pos[i] = position
            work.n_seq_id[i] = 1
            work.seq_id[i][0] = row
            work.logits[i] = wants
        self._decode(context, work)
        for i, (_, _, row, wants) in enumerate(entries):
            if wants:
                last[row] = self._greedy(context, i)

    def _decode(self, context: Any, work: Any) -> None:
        llama_cpp = importlib.import_module("llama_cpp")

        if code := llama_cpp.llama_decode(context, work):
            raise RuntimeError(f"llama_decode failed with {code}")

    def _greedy(self, context: Any, index: int) -> int:
        llama_cpp = importlib.import_module("llama_cpp")
        import numpy as np

        logits = llama_cpp.llama_get_logits_ith(context, index)
        return int(np.ctypeslib.as_array(logits, (self._vocab,)).argmax())
