"""What a folder is when it isn't a model that can be read: each kind by its name, with what to do about it."""

from __future__ import annotations

import shlex
from pathlib import Path

from deploykit.checkpoint import safetensors
from deploykit.checkpoint.errors import CheckpointError, printable
from deploykit.checkpoint.files import open_regular
from deploykit.checkpoint.gguf_split import without_rest
from deploykit.checkpoint.pickled import pickled_weights

_TURBOMIND_KEYS = (
    b"head_num",
    b"kv_head_num",
    b"size_per_head",
    b"inter_size",
    b"tensor_para_size",
    b"attn_tp_size",
)
_OTHER_WEIGHTS = {
    ".h5": "TensorFlow",
    ".msgpack": "Flax",
    ".onnx": "ONNX",
    ".engine": "TensorRT",
    ".mlmodel": "Core ML",
}


def names_of(folder: Path) -> list[str]:
    try:
        return sorted(p.name for p in folder.iterdir())
    except OSError as e:
        raise CheckpointError("the folder can't be read", file=folder, why=str(e)) from None


def gguf_files(names: list[str]) -> list[str]:
    """The models among them: not the projectors that bring pictures to one; of a model in parts, the first."""
    return without_rest([n for n in names if n.endswith(".gguf") and not n.startswith("mmproj")])


def check_folder(folder: Path) -> None:
    """Raises CheckpointError unless the folder has config.json and safetensors."""
    names = names_of(folder)
    _refuse_turbomind(folder, names)
    pickled = pickled_weights(names)
    ggufs = gguf_files(names)
    has_config = "config.json" in names
    if "adapter_config.json" in names and not has_config:
        fix = "give the model that it was trained on"
        raise CheckpointError("the folder holds a LoRA adapter, not a model", file=folder, fix=fix)
    if not has_config and ggufs:
        why = f"{len(ggufs)} of them: {', '.join(map(printable, ggufs[:4]))}"
        fix = f"name the file: {folder / ggufs[0]}"
        raise CheckpointError("the folder holds GGUF files", file=folder, why=why, fix=fix)
    if not has_config and "params.json" in names and pickled:
        raise _convert_first(folder, pickled[0], "Meta's layout (params.json)")
    if not has_config:
        fix = "give the folder that config.json is in"
        raise CheckpointError(
            "the folder isn't a model", file=folder, why="there is no config.json in it", fix=fix
        )
    if safetensors.SINGLE in names or safetensors.INDEX in names:
        return
    weights = [n for n in names if n.endswith(".safetensors")]
    if weights:
        why = f"there is {weights[0]}, and neither {safetensors.SINGLE} nor {safetensors.INDEX}"
        fix = "fetch the model again, whole, with its index"
        raise CheckpointError("the model's weights are incomplete", file=folder, why=why, fix=fix)
    if pickled:
        raise _convert_first(folder, pickled[0], "Hugging Face's older layout")
    other = next((n for n in names if Path(n).suffix in _OTHER_WEIGHTS), None)
    if other is not None:
        why = f"{printable(other)} is of {_OTHER_WEIGHTS[Path(other).suffix]}"
        fix = "take a revision of the model that has .safetensors files"
        raise CheckpointError("the folder holds no weights that are read", file=folder, why=why, fix=fix)
    raise CheckpointError("the folder holds no weights", file=folder, fix="fetch the model again, whole")


def _convert_first(folder: Path, file: str, layout: str) -> CheckpointError:
    return CheckpointError(
        f"the weights are in {printable(file)}, a pickle, which can run code when it is loaded",
        file=folder,
        why=f"{layout}; only safetensors and GGUF are read",
        fix=f"`deploykit convert {shlex.quote(str(folder))}` makes safetensors of it in a limited process; "
        "or take a revision of the model that has .safetensors files",
    )


def _refuse_turbomind(folder: Path, names: list[str]) -> None:
    """What `lmdeploy convert` writes: a workspace with triton_models/weights, or that folder itself."""
    if "config.json" in names and any(n.endswith(".safetensors") for n in names):
        return
    inner = "triton_models" in names
    if not inner:
        configs = [n for n in names if n in ("config.yaml", "config.ini")]
        if not configs or "config.json" in names:
            return
        with open_regular(folder / configs[0]) as f:
            text = f.read(64 << 10)
        if sum(key in text for key in _TURBOMIND_KEYS) < 3:
            return
    raise CheckpointError(
        "the folder was converted for LMDeploy's TurboMind",
        file=folder / "triton_models" if inner else folder,
        why="its weights are laid out for one GPU and one tensor parallel degree, and can't be told apart again",
        fix="give the checkpoint that it was converted from: Hugging Face's layout, AWQ and GPTQ are read directly",
    )
