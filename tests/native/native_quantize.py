"""Synthetic AWQ and GPTQ checkpoints: a tiny model's linear layers rounded to 4 bits and packed as the tools pack them.

Returns what the packed weights mean, so that transformers can compute the same model in float32.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from native_reference import AWQ_ORDER
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

Words = NDArray[np.int32]


def pack_rows(values: NDArray[np.uint32], order: tuple[int, ...]) -> Words:
    """uint [n, 8 * m] -> int32 [n, m]: nibble i of a word is value order[i] of its eight."""
    eights = values.reshape(values.shape[0], -1, 8)
    words = np.zeros(eights.shape[:2], np.uint32)
    for nibble, column in enumerate(order):
        words |= eights[:, :, column].astype(np.uint32) << np.uint32(4 * nibble)
    return words.view(np.int32)


def quantize(weight: NDArray[np.float32], group: int, symmetric: bool) -> tuple[Any, Any, Any, Any]:
    """[rows, cols] -> (q uint [rows, cols], zeros uint [rows, groups], scales f16 [rows, groups], what they mean)."""
    rows, cols = weight.shape
    grouped = weight.reshape(rows, cols // group, group)
    low, high = np.minimum(grouped.min(-1), 0), np.maximum(grouped.max(-1), 0)
    if symmetric:
        scales = (np.maximum(-low, high) / 7).astype(np.float16)
        zeros = np.full(low.shape, 8, np.uint32)
    else:
        scales = ((high - low) / 15).astype(np.float16)
        zeros = np.clip(np.round(-low / scales.astype(np.float32)), 1, 15).astype(np.uint32)
    wide = scales.astype(np.float32)[..., None]
    q = np.clip(np.round(grouped / wide) + zeros[..., None].astype(np.float32), 0, 15).astype(np.uint32)
    meaning = (q.astype(np.float32) - zeros[..., None].astype(np.float32)) * wide
    return q.reshape(rows, cols), zeros, scales, meaning.reshape(rows, cols)


def quantize_checkpoint(
    folder: Path,
    model: PreTrainedModel,
    method: Literal["awq", "gptq"],
    *,
    group: int = 32,
    symmetric: bool = False,
    v2: bool = False,
    scale_dtype: torch.dtype = torch.float16,
    zero_biases: bool = False,
) -> PreTrainedModel:
    """Rewrite a saved model in place; returns the model of the rounded weights and of float16's values elsewhere."""
    stored, packed = load_file(folder / "model.safetensors"), {}
    meaning: dict[str, torch.Tensor] = {}
    for name, tensor in stored.items():
        if tensor.ndim != 2 or "layers" not in name or ".gate.weight" in name:
            packed[name] = tensor.to(torch.float16)
            meaning[name] = packed[name].float()
            continue
        q, zeros, scales, means = quantize(tensor.numpy(), group, symmetric)
        module = name.removesuffix(".weight")
        if method == "awq":
            packed[f"{module}.qweight"] = torch.from_numpy(pack_rows(q.T, AWQ_ORDER))
            packed[f"{module}.qzeros"] = torch.from_numpy(pack_rows(zeros.T, AWQ_ORDER))
        else:
            straight = tuple(range(8))
            packed[f"{module}.qweight"] = torch.from_numpy(pack_rows(q, straight).T.copy())
            shifted = zeros if v2 else zeros - 1
            packed[f"{module}.qzeros"] = torch.from_numpy(pack_rows(shifted.T, straight))
            packed[f"{module}.g_idx"] = torch.arange(q.shape[1], dtype=torch.int32) // group
            if zero_biases:
                packed[f"{module}.bias"] = torch.zeros(q.shape[0], dtype=torch.float16)
        packed[f"{module}.scales"] = torch.from_numpy(scales.T.copy()).to(scale_dtype)
        meaning[name] = torch.from_numpy(means)
    save_file({k: v.contiguous() for k, v in packed.items()}, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = _section(method, group, symmetric, v2)
    (folder / "config.json").write_text(json.dumps(config))
    meant: PreTrainedModel = type(model).from_pretrained(
        None, config=model.config, state_dict=meaning, dtype=torch.float32, attn_implementation="eager"
    )
    return meant.eval()


def _section(method: str, group: int, symmetric: bool, v2: bool) -> dict[str, Any]:
    if method == "awq":
        return {"quant_method": "awq", "bits": 4, "group_size": group, "version": "gemm", "zero_point": True}
    return {
        "quant_method": "gptq",
        "bits": 4,
        "group_size": group,
        "desc_act": False,
        "sym": symmetric,
        "checkpoint_format": "gptq_v2" if v2 else "gptq",
    }
