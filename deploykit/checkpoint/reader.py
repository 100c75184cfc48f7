"""`read_facts`: what a checkpoint is, from its headers and its config.json alone."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from deploykit.checkpoint import gguf, safetensors
from deploykit.checkpoint.config import ConfigReader, token_ids, without_code
from deploykit.checkpoint.errors import CheckpointError, printable
from deploykit.checkpoint.facts import Facts, TensorInfo
from deploykit.checkpoint.files import exists, member, open_regular, read_json, read_text
from deploykit.checkpoint.gguf_llama import Metadata, llama_config, llama_tensors

MAX_TEMPLATE_BYTES = 4 << 20
MAX_TOKENIZER_CONFIG_BYTES = 64 << 20
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_QUANTIZED_GGUF = ("q8_0", "q4_0", "q4_1")


def read_facts(path: Path | str) -> Facts:
    """The facts of a folder in Hugging Face's layout, or of a .gguf file. No weights are read and no code is run.

    Raises CheckpointError that names the file, the tensor and the reason.
    """
    path = Path(path).absolute()
    if path.is_dir():
        return _read_folder(path)
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
    _refuse_what_is_no_model(folder)
    config_path = member(folder, "config.json")
    config: dict[str, Any] = without_code(read_json(config_path))
    generation_path = folder / "generation_config.json"
    generation: dict[str, Any] = {}
    if exists(folder, generation_path.name):
        generation = without_code(read_json(member(folder, generation_path.name)))
    read = ConfigReader(config, config_path)
    tensors = safetensors.read_folder(folder)
    if not tensors:
        raise CheckpointError("the checkpoint holds no tensors", file=folder)
    num_heads = read.integer("num_attention_heads", "n_head", "n_heads", "num_heads", high=1 << 16)
    hidden = read.integer("hidden_size", "n_embd", "d_model", "dim")
    vocab_size = read.integer("vocab_size")
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
        quant_method=read.quant_method(),
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
        chat_template=_chat_template(folder),
    )


def _refuse_what_is_no_model(folder: Path) -> None:
    """The usual wrong folders, each with what to do about it."""
    try:
        names = sorted(p.name for p in folder.iterdir())
    except OSError as e:
        raise CheckpointError("the folder can't be read", file=folder, why=str(e)) from None
    weights = [n for n in names if n.endswith(".safetensors")]
    ggufs = [n for n in names if n.endswith(".gguf")]
    pickled = [n for n in names if n.endswith(_PICKLED) and not n.startswith("training_args")]
    if "adapter_config.json" in names and "config.json" not in names:
        raise CheckpointError("the folder holds a LoRA adapter, not a model", file=folder)
    if "config.json" not in names and ggufs:
        fix = f"name the file: {folder / ggufs[0]}"
        raise CheckpointError("the folder holds GGUF files", file=folder, why=", ".join(ggufs[:4]), fix=fix)
    if "config.json" not in names:
        raise CheckpointError("the folder isn't a model", file=folder, why="it has no config.json")
    if safetensors.SINGLE in names or safetensors.INDEX in names:
        return
    if weights:
        why = f"there is {weights[0]}, and neither {safetensors.SINGLE} nor {safetensors.INDEX}"
        fix = "fetch the model again, whole, with its index"
        raise CheckpointError("the model's weights are incomplete", file=folder, why=why, fix=fix)
    if pickled:
        raise CheckpointError(
            f"the weights are in {pickled[0]}, a pickle, which can run code when it is loaded",
            file=folder,
            why="only safetensors and GGUF are read",
            fix="convert it where you trust it: load it with transformers and save it with save_pretrained(), "
            "or take a revision of the model that has .safetensors files",
        )
    raise CheckpointError("the folder holds no weights", file=folder, fix="fetch the model again, whole")


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
    header = gguf.read_header(path)
    meta = Metadata(path, header.metadata)
    architecture = meta.text("general.architecture")
    if architecture != "llama":
        raise CheckpointError(
            f"GGUF files of the architecture {printable(repr(architecture))} aren't supported",
            file=path,
            why="supported: llama",
            fix="use the model's checkpoint in safetensors",
        )
    if meta.values.get("split.count", 1) not in (0, 1):
        fix = "merge its parts into one file (llama-gguf-split --merge)"
        raise CheckpointError("split GGUF files aren't supported", file=path, fix=fix)
    config = llama_config(path, header)
    tensors = llama_tensors(path, header, config)
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
        architecture="LlamaForCausalLM",
        model_type="llama",
        config=config,
        generation_config=generation,
        weight_dtype=_main_dtype(tensors),
        tensors=tensors,
        quant_method="gguf" if any(t.dtype in _QUANTIZED_GGUF for t in tensors) else None,
        num_layers=config["num_hidden_layers"],
        hidden_size=config["hidden_size"],
        intermediate_size=config["intermediate_size"],
        num_heads=config["num_attention_heads"],
        num_kv_heads=config["num_key_value_heads"],
        head_dim=config["head_dim"],
        vocab_size=config["vocab_size"],
        max_position_embeddings=config["max_position_embeddings"],
        tie_word_embeddings=config["tie_word_embeddings"],
        bos_token_id=config.get("bos_token_id"),
        eos_token_ids=eos,
        chat_template=template,
    )
