"""OpenVINO GenAI on the CPU: its pipelines for one stream, its continuous batching for many. Started by peer_main.py.

Two forms of the model are made and tried: the GGUF file as OpenVINO's own reader takes it (4-bit groups as stored),
and, where `optimum-intel` and `nncf` are installed as well, its own exporter's result from the dequantized weights
with 4-bit groups of 64 and zero points and an int8 embedding and head. One stream runs over paged attention and over
the stateful model with plain attention. Keys and values have the precision that OpenVINO chooses (u8 on most CPUs).
"""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

GGUF, INT4 = "GGUF", "int4 group 64"
PAGED, STATEFUL = "paged attention", "stateful"
MODEL = "openvino_model.xml"
STEP_TOKENS = 1024  # of the continuous batching: all 16 prompts of the benchmark in one step
CACHE_GB = 1
EXPORT = (
    "--task",
    "text-generation-with-past",
    "--weight-format",
    "int4",
    "--group-size",
    "64",
    "--ratio",
    "1.0",
)


class Peer:
    name = "OpenVINO GenAI"

    def __init__(self) -> None:
        self._single: Any = None
        self._batch: Any = None

    def version(self) -> str:
        openvino_genai = importlib.import_module("openvino_genai")

        return f"openvino-genai {openvino_genai.__version__}"

    # ------------------------------------------------------------ files and settings

    def prepare(self, model_path: str, plain: str | None, folder: str) -> list[dict[str, Any]]:
        """Models in OpenVINO's format, made once. Raises ValueError where none can be made."""
        found = []
        if self._from_gguf(model_path, Path(folder) / GGUF.lower()):
            found.append(GGUF)
        if self._exported(plain, Path(folder) / "int4-g64"):
            found.append(INT4)
        if not found:
            raise ValueError(
                f"OpenVINO has no form of {model_path}: it reads GGUF files, and makes others with optimum-intel"
            )
        return [
            {"name": f"{form}, {attention}", "jobs": jobs}
            for form in found
            for attention, jobs in ((PAGED, ["single", "batch"]), (STATEFUL, ["single"]))
        ]

    def _from_gguf(self, model_path: str, target: Path) -> bool:
        if (target / MODEL).exists():
            return True
        if not model_path.endswith(".gguf"):
            return False
        openvino_genai = importlib.import_module("openvino_genai")

        with _Partial(target) as partial:
            link = partial / "model.gguf"  # the reader writes its model beside the file
            link.symlink_to(model_path)
            openvino_genai.LLMPipeline(str(link), "CPU", enable_save_ov_model=True)
            link.unlink()
        return True

    def _exported(self, plain: str | None, target: Path) -> bool:
        if (target / MODEL).exists():
            return True
        tool = Path(sys.executable).with_name("optimum-cli")
        if plain is None or not tool.exists():
            return False
        with _Partial(target) as partial:
            command = [str(tool), "export", "openvino", "--model", plain, *EXPORT, str(partial)]
            done = subprocess.run(
                command, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"}
            )
            if done.returncode:
                raise RuntimeError(" | ".join(done.stderr.splitlines()[-3:]))
        return True

    def load(
        self, model_path: str, folder: str, setting: str, threads: int, context: int, sequences: int
    ) -> dict[str, Any]:
        openvino_genai = importlib.import_module("openvino_genai")

        form, _, attention = setting.partition(", ")
        path = str(Path(folder) / (GGUF.lower() if form == GGUF else "int4-g64"))
        backend = "PA" if attention == PAGED else "SDPA"
        options: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads}
        self._single = openvino_genai.LLMPipeline(path, "CPU", ATTENTION_BACKEND=backend, **options)
        if sequences > 1 and attention == PAGED:
            scheduler = openvino_genai.SchedulerConfig()
            scheduler.max_num_batched_tokens = STEP_TOKENS
            scheduler.max_num_seqs = sequences
            scheduler.cache_size = CACHE_GB
            self._batch = openvino_genai.ContinuousBatchingPipeline(path, scheduler, "CPU", options)
        return {"vocab_size": None, "kv_dtype": "u8"}

    # ------------------------------------------------------------ runs

    def single(self, prompt: list[int], output_len: int) -> tuple[float, float, list[int]]:
        import numpy as np

        openvino = importlib.import_module("openvino")
        openvino_genai = importlib.import_module("openvino_genai")

        ids = np.array([prompt], dtype=np.int64)
        inputs = openvino_genai.TokenizedInputs(openvino.Tensor(ids), openvino.Tensor(np.ones_like(ids)))
        result = self._single.generate(inputs, _greedy(output_len))
        metrics = result.perf_metrics
        prefill_s = metrics.get_ttft().mean / 1000
        decode_s = metrics.get_tpot().mean / 1000 * (output_len - 1) if output_len > 1 else 0.0
        return prefill_s, decode_s, [int(token) for token in result.tokens[0]]

    def batch(self, prompts: list[list[int]], output_len: int) -> tuple[float, list[int]]:
        import numpy as np

        openvino = importlib.import_module("openvino")

        if self._batch is None:
            raise ValueError("this setting has no continuous batching")
        ids = [openvino.Tensor(np.array([prompt], dtype=np.int64)) for prompt in prompts]
        start = time.perf_counter()
        results = self._batch.generate(ids, [_greedy(output_len)] * len(prompts))
        seconds = time.perf_counter() - start
        return seconds, [len(result.m_generation_ids[0]) for result in results]


def _greedy(output_len: int) -> Any:
    openvino_genai = importlib.import_module("openvino_genai")

    config = openvino_genai.GenerationConfig()
    config.max_new_tokens = output_len
    config.ignore_eos = True
    config.do_sample = False
    return config


class _Partial:
    """A folder that gets its name when it is whole."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.partial = target.with_name(f"{target.name}.{os.getpid()}")

    def __enter__(self) -> Path:
        self.partial.mkdir(parents=True)
        return self.partial

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            shutil.rmtree(self.target, ignore_errors=True)
            os.replace(self.partial, self.target)
        else:
            shutil.rmtree(self.partial, ignore_errors=True)
