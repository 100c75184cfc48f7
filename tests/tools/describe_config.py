"""Describes a checkpoint from its config.json alone: the tensors are those of transformers' model without weights.

    python tests/tools/describe_config.py config.json --model owner/name --template tokenizer_config.json

transformers must know the architecture by itself. `--quantize` turns the linear layers of the decoder into what AWQ,
GPTQ or block-wise FP8 stores in their place, as the config's quantization_config says.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from deploykit.checkpoint.describe import compact, to_json
from deploykit.checkpoint.described import TEMPLATES
from deploykit.checkpoint.facts import TensorInfo

_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}
_LINEAR = re.compile(r"(?:.*\.)?(?:layers|h|blocks)\.\d+\..*(?<!norm)\.weight")
_NOT_DECODER = re.compile(r"vision|visual|\.(gate|router|shared_expert_gate|kv_a_norm)\.weight$|norm|embed")


def tensors_of(config: dict[str, Any], dtype: str) -> list[TensorInfo]:
    """The tensors that transformers saves for a config, in `dtype`, under the names of the published checkpoints."""
    import torch
    import transformers
    from transformers.core_model_loading import revert_weight_conversion

    made = transformers.CONFIG_MAPPING[config["model_type"]].from_dict(dict(config))
    cls = getattr(transformers, config["architectures"][0])
    with torch.device("meta"):
        model = cls(made)
    shared = set(getattr(model, "all_tied_weights_keys", {}) or {})
    state = {name: value for name, value in model.state_dict().items() if name not in shared}
    stored = revert_weight_conversion(model, state)
    return [
        TensorInfo(name, tuple(t.shape), dtype, t.numel() * _BYTES[dtype], "", 0)
        for name, t in stored.items()
    ]


# ---------------------------------------------------------------- quantized weights


def quantized(tensors: Iterable[TensorInfo], section: dict[str, Any], scale: str = "") -> list[TensorInfo]:
    """What a checkpoint holds whose quantization_config is `section`; plain tensors of AWQ and GPTQ are float16.

    `scale` is the dtype of scales, where it isn't float16 (AWQ, GPTQ) or float32 (FP8).
    """
    method = section["quant_method"]
    split, plain, default = _METHODS[method]
    skipped = section.get("modules_to_not_convert") or section.get("ignored_layers") or ()
    found: list[TensorInfo] = []
    for t in tensors:
        module = t.name.removesuffix(".weight")
        linear = _LINEAR.fullmatch(t.name) and len(t.shape) == 2 and not _NOT_DECODER.search(t.name)
        if linear and not any(name == module or name in module.split(".") for name in skipped):
            found += split(module, t.shape[0], t.shape[1], section, scale or default)
        else:
            dtype = plain or t.dtype
            found.append(TensorInfo(t.name, t.shape, dtype, t.num_elements * _BYTES[dtype], "", 0))
    return found


def _tensor(name: str, shape: tuple[int, ...], dtype: str) -> TensorInfo:
    size = {**_BYTES, "int32": 4, "float8_e4m3fn": 1}[dtype]
    found = TensorInfo(name, shape, dtype, 0, "", 0)
    return TensorInfo(name, shape, dtype, found.num_elements * size, "", 0)


def _awq(module: str, rows: int, cols: int, section: dict[str, Any], scale: str) -> Iterator[TensorInfo]:
    group = section["group_size"]
    yield _tensor(f"{module}.qweight", (cols, rows // 8), "int32")
    yield _tensor(f"{module}.qzeros", (cols // group, rows // 8), "int32")
    yield _tensor(f"{module}.scales", (cols // group, rows), scale)


def _gptq(module: str, rows: int, cols: int, section: dict[str, Any], scale: str) -> Iterator[TensorInfo]:
    group, pack = section["group_size"], 32 // section["bits"]
    yield _tensor(f"{module}.qweight", (cols // pack, rows), "int32")
    yield _tensor(f"{module}.qzeros", (cols // group, rows // pack), "int32")
    yield _tensor(f"{module}.scales", (cols // group, rows), scale)
    yield _tensor(f"{module}.g_idx", (cols,), "int32")


def _fp8(module: str, rows: int, cols: int, section: dict[str, Any], scale: str) -> Iterator[TensorInfo]:
    high, wide = section["weight_block_size"]
    yield _tensor(f"{module}.weight", (rows, cols), "float8_e4m3fn")
    yield _tensor(f"{module}.weight_scale_inv", (-(-rows // high), -(-cols // wide)), scale)


Split = Callable[[str, int, int, dict[str, Any], str], Iterator[TensorInfo]]
# method -> (what a linear layer becomes, dtype of everything else, dtype of scales)
_METHODS: dict[str, tuple[Split, str, str]] = {
    "awq": (_awq, "float16", "float16"),
    "gptq": (_gptq, "float16", "float16"),
    "fp8": (_fp8, "", "float32"),
}


# ---------------------------------------------------------------- the description


def describe_config(
    config: dict[str, Any],
    *,
    model: str,
    template: str | None,
    generation: dict[str, Any] | None = None,
    note: str = "",
) -> dict[str, Any]:
    """The description of the checkpoint `model`, whose config.json is `config`."""
    own = dict(config)
    dtype = own.pop("torch_dtype", None) or own.pop("dtype", None) or "float32"
    tensors = tensors_of({k: v for k, v in own.items() if k != "quantization_config"}, dtype)
    if section := own.get("quantization_config"):
        tensors = quantized(tensors, section)
    data: dict[str, Any] = {"model": model}
    if note:
        data["note"] = note
    data["config"] = own
    if generation:
        data["generation_config"] = generation
    return {**data, "chat_template": template, "tensors": compact(tensors)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path, help="a config.json")
    parser.add_argument("--model", required=True, help="owner/name")
    parser.add_argument(
        "--template", choices=[*TEMPLATES, "none"], required=True, help="the file that holds it"
    )
    parser.add_argument("--generation", type=Path, help="a generation_config.json")
    parser.add_argument("--note", default="", help="a remark for people")
    parser.add_argument("--write", type=Path, help="where to write it; without it: standard output")
    given = parser.parse_args()
    data = describe_config(
        json.loads(given.config.read_text()),
        model=given.model,
        template=None if given.template == "none" else given.template,
        generation=json.loads(given.generation.read_text()) if given.generation else None,
        note=given.note,
    )
    if given.write:
        given.write.write_text(to_json(data))
    else:
        sys.stdout.write(to_json(data))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
