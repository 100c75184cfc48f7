"""`read_facts`: what a checkpoint is, from its headers and its config.json alone."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import msgspec

from deploykit.checkpoint import gguf_split, safetensors
from deploykit.checkpoint.config import ConfigReader, token_ids, without_code
from deploykit.checkpoint.errors import CheckpointError, printable
from deploykit.checkpoint.facts import Facts, TensorInfo
from deploykit.checkpoint.files import exists, member, open_regular, read_json, read_text
from deploykit.checkpoint.gguf_config import make_config
from deploykit.checkpoint.gguf_source import Source
from deploykit.checkpoint.gguf_tensors import map_tensors
from deploykit.checkpoint.quantization import read_quantization
from deploykit.checkpoint.refuse import check_folder, gguf_files, names_of

MAX_TEMPLATE_BYTES = 4 << 20
MAX_TOKENIZER_CONFIG_BYTES = 64 << 20
FORMATS = (
    "hf",
    "gguf",
    "awq",
    "gptq",
    "fp8",
    "compressed-tensors",
    "mxfp4",
    "bitsandbytes",
)  # a recipe's, beside auto
_KV_SCALES = (".k_scale", ".v_scale", ".kv_scale", ".k_proj.output_scale", ".v_proj.output_scale")
_PLAIN = ("float32", "float16", "bfloat16")


def read_facts(path: Path | str, format: str = "auto") -> Facts:
    """The facts of a folder in Hugging Face's layout, or of a .gguf file. No weights are read and no code is run.

    `format` is a recipe's `model.format`: `auto` takes what is there (of a folder that has nothing else its only
    GGUF file); another one is what must be there. Raises CheckpointError that names the file, the tensor and the
    reason.
    """
    path = Path(path).absolute()
    if path.is_dir():
        file = _gguf_of(path, format)
        facts = _read_folder(path) if file is None else _read_gguf(file)
    else:
        facts = _read_file(path)
    check_format(facts, format)
    return facts


def check_format(facts: Facts, format: str) -> None:
    """Raises CheckpointError where a recipe's `model.format` asks for another one."""
    if format not in ("auto", facts.layout):
        raise CheckpointError(
            f"the recipe asks for {format}, and the model is {facts.layout}",
            file=facts.path,
            why=facts.quantized or f"its weights are stored as {facts.weight_dtype}",
            fix=f"set model.format to {facts.layout if facts.layout in FORMATS else 'auto'}, or name another model",
        )


def _gguf_of(folder: Path, format: str) -> Path | None:
    """The GGUF file that a folder stands for: its only one, where it is asked for or where nothing else is there."""
    names = names_of(folder)
    found = gguf_files(names)
    if format == "gguf":
        if not found:
            raise CheckpointError(
                "the folder holds no GGUF file", file=folder, fix="set model.format to auto"
            )
        if len(found) > 1:
            why, fix = ", ".join(map(printable, found[:4])), f"name the file: {folder / found[0]}"
            raise CheckpointError("the folder holds several GGUF files", file=folder, why=why, fix=fix)
        return member(folder, found[0])
    alone = len(found) == 1 and "config.json" not in names
    return member(folder, found[0]) if format == "auto" and alone else None


def _read_file(path: Path) -> Facts:
    with open_regular(path) as f:
        magic = f.read(4)
    if magic == b"GGUF":
        return _read_gguf(path)
    if path.suffix == ".safetensors":
        fix = f"name its folder: {path.parent}"
        raise CheckpointError("a single .safetensors file isn't a model", file=path, fix=fix)
    why = "a model is a folder with config.json and safetensors, or a .gguf file"
    raise CheckpointError("the file isn't a model", file=path, why=why)


# ---------------------------------------------------------------- Hugging Face's layout


def _read_folder(folder: Path) -> Facts:
    check_folder(folder)
    config_path = member(folder, "config.json")
    config: dict[str, Any] = without_code(read_json(config_path))
    generation_path = folder / "generation_config.json"
    generation: dict[str, Any] = {}
    if exists(folder, generation_path.name):
        generation = without_code(read_json(member(folder, generation_path.name)))
    tensors = safetensors.read_folder(folder)
    if not tensors:
        raise CheckpointError("the checkpoint holds no tensors", file=folder)
    facts = facts_of(folder, config_path, config, generation_path, generation, tensors)
    return msgspec.structs.replace(facts, chat_template=_chat_template(folder))


def facts_of(
    folder: Path,
    config_path: Path,
    config: dict[str, Any],
    generation_path: Path,
    generation: dict[str, Any],
    tensors: tuple[TensorInfo, ...],
) -> Facts:
    """The facts of a config.json and the tensors beside it; the paths are named in errors.

    Where the config doesn't say how weights are quantized, it is looked for in files of `folder`.
    """
    read = ConfigReader(config, config_path)
    quantization, section = read_quantization(folder, config, read.text)
    if quantization is not None:
        config = {**config, "quantization_config": section}
        if any(t.name.endswith(_KV_SCALES) for t in tensors):
            quantization = msgspec.structs.replace(quantization, kv_scales=True)
    else:
        _refuse_packed(folder, tensors)
    num_heads = read.integer("num_attention_heads", "n_head", "n_heads", "num_heads", high=1 << 16)
    hidden = read.integer("hidden_size", "n_embd", "d_model", "dim")
    vocab_size = read.integer("vocab_size", "padded_vocab_size")
    sources = ((generation, generation_path), (read.text, config_path), (config, config_path))
    bos = token_ids(*sources, key="bos_token_id", vocab_size=vocab_size)
    return Facts(
        path=str(folder),
        format="safetensors",
        architecture=read.architecture(),
        model_type=read.model_type(),
        config=config,
        generation_config=generation,
        weight_dtype=_main_dtype(tensors),
        tensors=tensors,
        quant_method=None if quantization is None else quantization.method,
        quantization=quantization,
        num_layers=read.integer("num_hidden_layers", "n_layer", "n_layers", "num_layers", high=1 << 16),
        hidden_size=hidden,
        intermediate_size=read.integer(
            "intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size", "d_ff", default=4 * hidden
        ),
        num_heads=num_heads,
        num_kv_heads=read.num_kv_heads(num_heads),
        head_dim=read.integer("head_dim", default=hidden // num_heads),
        vocab_size=vocab_size,
        max_position_embeddings=read.integer(
            "max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "seq_length"
        ),
        sliding_window=read.sliding_window(),
        tie_word_embeddings=_tied(config, read.text, tensors),
        bos_token_id=bos[0] if bos else None,
        eos_token_ids=token_ids(*sources, key="eos_token_id", vocab_size=vocab_size),
    )


def _refuse_packed(folder: Path, tensors: tuple[TensorInfo, ...]) -> None:
    """Weights that are packed by AWQ or GPTQ while nothing says how."""
    names = {t.name for t in tensors}
    packed = next((n for n in names if n.endswith(".qweight") and f"{n[:-7]}qzeros" in names), None)
    if packed is not None:
        raise CheckpointError(
            "packed weights, and nothing says how they are quantized",
            file=folder / "config.json",
            tensor=packed,
            why="there is no quantization_config in it, and neither quantize_config.json nor quant_config.json beside",
            fix="fetch the model again, whole",
        )


def _main_dtype(tensors: tuple[TensorInfo, ...]) -> str:
    sizes: Counter[str] = Counter()
    for t in tensors:
        sizes[t.dtype] += t.nbytes
    return sizes.most_common(1)[0][0]


def _tied(config: dict[str, Any], text: dict[str, Any], tensors: tuple[TensorInfo, ...]) -> bool:
    """As the config says; where it is silent the default is the class's own, which the tensors show."""
    for section in (config, text):
        if isinstance(section.get("tie_word_embeddings"), bool):
            return bool(section["tie_word_embeddings"])
    return not any(t.name.endswith(("lm_head.weight", "embed_out.weight", "output.weight")) for t in tensors)


def _chat_template(folder: Path) -> str | None:
    """chat_template.jinja, else chat_template.json, else the key in tokenizer_config.json."""
    if exists(folder, "chat_template.jinja"):
        return read_text(member(folder, "chat_template.jinja"), MAX_TEMPLATE_BYTES)
    for name in ("chat_template.json", "tokenizer_config.json"):
        if not exists(folder, name):
            continue
        path = member(folder, name)
        value = read_json(path, MAX_TOKENIZER_CONFIG_BYTES).get("chat_template")
        if isinstance(value, list):  # several named ones; "default" is for plain chat
            named = {t.get("name"): t.get("template") for t in value if isinstance(t, dict)}
            value = named.get("default")
        if value is None:
            continue
        if not isinstance(value, str) or len(value) > MAX_TEMPLATE_BYTES:
            raise CheckpointError("chat_template isn't text of a sane length", file=path)
        return value
    return None


# ---------------------------------------------------------------- GGUF


def _read_gguf(path: Path) -> Facts:
    header = gguf_split.read_whole(path)
    source = Source(path, header)
    meta = source.meta
    config = make_config(source)
    tensors = map_tensors(source, config)
    template = meta.text("tokenizer.chat_template")
    if template is not None and len(template) > MAX_TEMPLATE_BYTES:
        raise CheckpointError("tokenizer.chat_template isn't text of a sane length", file=path)
    ids = [meta.optional_id(f"tokenizer.ggml.{k}_token_id", config["vocab_size"]) for k in ("eos", "eot")]
    eos = tuple(dict.fromkeys(i for i in ids if i is not None))
    generation: dict[str, Any] = {}
    if eos:
        generation["eos_token_id"] = list(eos)
    if "bos_token_id" in config:
        generation["bos_token_id"] = config["bos_token_id"]
    return Facts(
        path=str(path),
        format="gguf",
        architecture=source.family.architecture,
        model_type=source.family.model_type,
        config=config,
        generation_config=generation,
        weight_dtype=_main_dtype(tensors),
        tensors=tensors,
        quant_method="gguf" if any(t.dtype not in _PLAIN for t in tensors) else None,
        num_layers=config["num_hidden_layers"],
        hidden_size=config["hidden_size"],
        intermediate_size=config["intermediate_size"],
        num_heads=config["num_attention_heads"],
        num_kv_heads=config["num_key_value_heads"],
        head_dim=config["head_dim"],
        vocab_size=config["vocab_size"],
        max_position_embeddings=config["max_position_embeddings"],
        sliding_window=config.get("sliding_window"),
        tie_word_embeddings=config["tie_word_embeddings"],
        bos_token_id=config.get("bos_token_id"),
        eos_token_ids=eos,
        chat_template=template,
    )
