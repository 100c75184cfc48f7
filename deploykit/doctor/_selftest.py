"""Runs alone, as a program: loads the native module at argv[1] and multiplies 64 x 64 numbers. Never imported.

The product is a model's own: 64 positions of a random model of one layer, whose attention and MLP add nothing,
through its output head. numpy computes the same. A library that is wrong takes this process with it, not the one
that asked.
"""

import importlib.util
import json
import math
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

NAME = "_deploykit_native"
SIZE = 64  # hidden size, vocabulary, and positions
EPS = 1e-5
# Largest difference of log probabilities that rounding explains: sums of 64 products, inputs rounded alike.
TOLERANCE = {"f32": 1e-4, "f16": 2e-2}
PROMPT_LOGPROBS = 4  # the step's flag


def load(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(NAME, path)
    if spec is None or spec.loader is None:
        raise ImportError("no Python module by its name")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def describe() -> dict[str, Any]:
    """One layer of one head; a description as the module takes it."""
    attention = {
        "heads": 1, "kv_heads": 1, "head_dim": SIZE, "scale": 1 / math.sqrt(SIZE), "rope": 0,
    }  # fmt: skip
    return {
        "hidden": SIZE,
        "vocab": SIZE,
        "norm": {"eps": EPS},
        "ropes": [{"inv_freq": [10000.0 ** (-i / (SIZE // 2)) for i in range(SIZE // 2)]}],
        "layers": [{"attention": attention, "mlp": {"intermediate": SIZE}}],
    }


def weights_of(module: Any, model: dict[str, Any], dtype: str) -> dict[str, Any]:
    """Random weights by name, as they are stored; what is added to the residual is zero."""
    rng = np.random.default_rng(0)
    found = {}
    for need in module.required_weights(model):
        name, shape = need["name"], (need["rows"], need["cols"])
        if name.endswith(("o.weight", "down.weight")):
            value = np.zeros(shape)
        elif name.endswith("norm.weight"):
            value = rng.uniform(0.5, 1.5, shape)
        else:
            value = rng.standard_normal(shape) / 8
        half = dtype == "f16" and shape[0] > 1
        found[name] = np.ascontiguousarray(value, np.float16 if half else np.float32)
    return found


def engine_of(
    module: Any, model: dict[str, Any], weights: dict[str, Any], device: str, index: int, dtype: str
) -> Any:
    manifest = [
        {
            "name": name,
            "format": "f16" if value.dtype == np.float16 else "f32",
            "rows": value.shape[0],
            "cols": value.shape[1],
        }
        for name, value in weights.items()
    ]
    options = {
        "device": device, "device_index": index, "dtype": dtype, "kv": dtype, "block_len": SIZE, "num_blocks": 4,
        "max_rows": 2, "session_len": 2 * SIZE, "max_step_tokens": 2 * SIZE, "threads": 1,
    }  # fmt: skip
    engine = module.Engine(model, manifest, options)
    for name, value in weights.items():
        engine.load_weight(name, value)
    engine.finish_loading()
    return engine


def log_probabilities(engine: Any, tokens: Any) -> Any:
    """float64 [positions, vocabulary] after each token but the last."""
    sampling = SimpleNamespace(
        temperature=0.0, top_p=1.0, top_k=0, min_p=0.0, repetition_penalty=1.0, frequency_penalty=0.0,
        presence_penalty=0.0, logit_bias={}, min_tokens=0, stop_token_ids=(), bad_words=(), logprobs=None,
        prompt_logprobs=SIZE,
    )  # fmt: skip
    admit = SimpleNamespace(
        row=0, epoch=1, tokens=tokens.tobytes(), prompt_len=len(tokens), computed=0, limit=len(tokens) + 1,
        sampling=sampling, seed=0, eos_token_ids=(), adapter=None, grammar=None, positions=None, spans=(),
    )  # fmt: skip
    extend = SimpleNamespace(row=0, epoch=1, group=0, blocks=(0, 1))
    one = [np.array([value], "<i4").tobytes() for value in (0, 1, len(tokens), PROMPT_LOGPROBS)]
    engine.launch(0, *one, admits=(admit,), extends=(extend,))
    result = engine.collect(0)
    failures, prompt = result[6], result[4]
    if failures:
        raise RuntimeError(f"the step failed: {failures[0][3]}")
    found = np.full((len(tokens) - 1, SIZE), np.nan)
    for position, (_, _, _, top) in enumerate(prompt[0]):
        for token, logprob in top:
            found[position, token] = logprob
    return found


def expected(weights: dict[str, Any], tokens: Any) -> Any:
    x = weights["embed.weight"].astype(np.float64)[tokens[:-1]]
    x = x / np.sqrt((x * x).mean(-1, keepdims=True) + EPS) * weights["final_norm.weight"].astype(np.float64)
    logits = x @ weights["head.weight"].astype(np.float64).T
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def main(path: str, device: str, index: int) -> dict[str, object]:
    module = load(path)
    dtype = "f16" if device == "cuda" else "f32"
    model = describe()
    weights = weights_of(module, model, dtype)
    tokens = np.random.default_rng(1).integers(0, SIZE, SIZE + 1).astype("<i4")
    engine = engine_of(module, model, weights, device, index, dtype)
    got = log_probabilities(engine, tokens)
    info = {str(key): str(value) for key, value in engine.info().items()}
    engine.close()
    worst = float(np.abs(got - expected(weights, tokens)).max())
    # A NaN is no number below the limit.
    return {"difference": repr(worst), "good": bool(worst <= TOLERANCE[dtype]), "dtype": dtype, "info": info}


if __name__ == "__main__":
    try:
        answer = main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
    except Exception as error:  # the linker's own words, or the library's
        answer = {"error": str(error) or type(error).__name__}
    print(json.dumps(answer))
