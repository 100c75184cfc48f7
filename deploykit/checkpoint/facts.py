"""What a checkpoint is, read from its headers and its config.json: no weights are loaded and no code of it is run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from deploykit.checkpoint.quantization import Quantization

# Ends of names, of what a quantized checkpoint keeps beside its weights.
_NO_PARAMETERS = ("scales", "scale", "scale_inv", "zeros", "zero_point", "g_idx", "weight_shape")


class TensorInfo(msgspec.Struct, frozen=True):
    """One tensor as it lies on the disk, under its Hugging Face name."""

    name: str
    shape: tuple[int, ...]
    dtype: str  # bfloat16 | float16 | float32 | q4_1 | q8_0 | …
    nbytes: int
    file: str  # relative to Facts.path (or its name, for a single file)
    offset: int  # bytes from the file's start
    layout: str = (
        ""  # what a converter did to the values: "" | pairs | plus_one | transposed (gguf_families.py)
    )

    @property
    def num_elements(self) -> int:
        total = 1
        for size in self.shape:
            total *= size
        return total


class Facts(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """A checkpoint's facts. `config` is a Hugging Face config.json (made from the metadata for a GGUF file).

    What is worked out from them may be kept in `__dict__`: copies, comparisons and encodings leave it out.
    """

    path: str  # a folder, or a .gguf file
    format: str  # safetensors | gguf
    architecture: str  # LlamaForCausalLM
    model_type: str  # llama
    config: dict[str, Any]  # without auto_map and its like
    generation_config: dict[str, Any] = {}
    weight_dtype: str  # what most bytes are stored in
    tensors: tuple[TensorInfo, ...] = ()
    quant_method: str | None = None  # None | gguf | awq | gptq | …
    quantization: Quantization | None = None  # None for plain weights and GGUF
    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    max_position_embeddings: int
    sliding_window: int | None = None
    tie_word_embeddings: bool = False
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    chat_template: str | None = None
    # files | hub (headers read by range) | described (a recipe's model.facts: nothing of it can be loaded)
    origin: str = "files"
    chat_template_from: str | None = None  # described: the file of the checkpoint that holds its template

    def with_rope_factor(self, factor: float | None) -> Facts:
        """The same checkpoint with dynamic NTK scaling of its rotary embedding by `factor`, over its own."""
        if factor is None or factor == 1:
            return self
        # Old configs keep the base beside `rope_scaling`, new ones all of it in `rope_parameters`.
        key = "rope_parameters" if isinstance(self.config.get("rope_parameters"), dict) else "rope_scaling"
        own = self.config.get(key) or {}
        scaling = _dynamic(own, factor)
        full = own.get("full_attention")
        if isinstance(
            full, dict
        ):  # a section for each kind of layer: a window never reaches further than it did
            scaling = {**own, "full_attention": _dynamic(full, factor)}
        return msgspec.structs.replace(self, config={**self.config, key: scaling})

    def with_logn(self, on: bool | None) -> Facts:
        """The same checkpoint with log-n attention scaling or without it, whatever it says itself; None: as it says."""
        if on is None:
            return self
        return msgspec.structs.replace(self, config={**self.config, "use_logn_attn": on})

    def path_of(self, file: str) -> Path:
        """Where one of its files lies (TensorInfo.file)."""
        path = Path(self.path)
        return path.with_name(file) if self.format == "gguf" else path / file

    def stored_as(self, layout: str) -> bool:
        """Whether tensors lie in the files in this layout (TensorInfo.layout)."""
        return any(t.layout == layout for t in self.tensors)

    @property
    def layout(self) -> str:
        """What a recipe's `model.format` calls it: hf (plain safetensors), gguf, awq, gptq, fp8, …"""
        if self.format == "gguf":
            return "gguf"
        return {"fbgemm_fp8": "fp8", "gptqmodel": "gptq"}.get(
            self.quant_method or "hf", self.quant_method or "hf"
        )

    @property
    def quantized(self) -> str:
        """How the weights are quantized, in words; empty for plain ones."""
        return self.quantization.describe() if self.quantization else self.quant_method or ""

    @property
    def num_parameters(self) -> int:
        """Of the model: packed weights counted one by one, scales and zero points not at all."""
        if self.quantization is None:
            return sum(t.num_elements for t in self.tensors)
        pairs = self.config.get("expert_dtype") == "fp4"  # DeepSeek-V4: two of an expert's numbers in an int8
        return sum(
            2 * t.num_elements if pairs and t.dtype == "int8" else _parameters(t, self.quantization.bits or 8)
            for t in self.tensors
        )

    @property
    def stored_bytes(self) -> int:
        return sum(t.nbytes for t in self.tensors)


def _parameters(tensor: TensorInfo, bits: int) -> int:
    """Parameters that one tensor of a quantized checkpoint holds."""
    leaf = tensor.name.rpartition(".")[2]
    if leaf.endswith(_NO_PARAMETERS):
        return 0
    packed = leaf in ("qweight", "weight_packed") or leaf.endswith("_blocks")
    return tensor.nbytes * 8 // bits if packed else tensor.num_elements


def _dynamic(own: dict[str, Any], factor: float) -> dict[str, Any]:
    kept = {k: v for k, v in own.items() if k in ("rope_theta", "partial_rotary_factor")}
    return {**kept, "rope_type": "dynamic", "factor": float(factor)}
