"""What a vision model's image tower takes: its weights by name, and the tokens and activations of an image."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from deploykit.checkpoint.facts import Facts

# The first part of a tensor's name, below the wrappers that a model stands in.
_WRAPPERS = ("model", "transformer", "base_model", "thinker")
_TOWERS = frozenset(
    {
        "vision_model",  # InternVL, DeepSeek-VL
        "vision_tower",  # LLaVA, Yi-VL, Mini-Gemini, Gemma 3, Intern-S1
        "vision_tower_aux",  # Mini-Gemini: the tower for details
        "visual",  # Qwen-VL and its successors; GLM-4.1V
        "vision",  # CogVLM, GLM-4V, DeepSeek-VL2
        "vision_backbone",  # Molmo: its projector is inside
        "vision_encoder",
        "vision_embed_tokens",  # Phi-3-vision: its projector is inside
        "vit",  # XComposer
        "vpm",  # MiniCPM-V
    }
)
_PROJECTORS = frozenset(
    {
        "mlp1",  # InternVL
        "multi_modal_projector",
        "mm_projector",
        "image_newline",
        "aligner",  # DeepSeek-VL
        "projector",  # DeepSeek-VL2
        "view_seperator",
        "resampler",  # MiniCPM-V
        "vision_proj",  # XComposer
        "plora_glb_GN",
        "plora_sub_GN",
        "vlm_uni_query_projector",  # Mini-Gemini
        "vlm_uni_aux_projector",
        "vlm_uni_val_projector",
    }
)
_MEGAPIXEL = 1024  # a side
# config.json's keys that only models with an image tower have.
_SIGNS = ("vision_config", "visual", "vision_tower", "mm_vision_tower", "img_processor")


class Image(msgspec.Struct, frozen=True, kw_only=True):
    """The largest image that the model takes; one of about a megapixel where it takes any (`unit`)."""

    tile: int  # pixels of a tile's side
    patches: int  # of a tile, in the tower
    tiles: int  # at most, with the one that shows all of it
    tokens: int  # of the image, in the prompt; a template's marks around it are not counted
    hidden: int  # of the tower
    inner: int
    unit: int = 0  # side of the square of pixels that is a token, where an image may be of any size


def part_of(name: str) -> str | None:
    """`tower` or `projector` for a tensor of the image tower, None for the language model's."""
    head, rest = "", name
    while rest:  # a checkpoint has many thousands of names: no more of each is looked at than it takes
        head, _, rest = rest.partition(".")
        if head not in _WRAPPERS:
            return "tower" if head in _TOWERS else "projector" if head in _PROJECTORS else None
    return None


def tower_bytes(facts: Facts) -> tuple[int, int]:
    """(bytes of the tower, of what leads from it into the language model), as stored."""
    sizes = {"tower": 0, "projector": 0}
    for tensor in facts.tensors:
        if part := part_of(tensor.name):
            sizes[part] += tensor.nbytes
    return sizes["tower"], sizes["projector"]


def image_tower(facts: Facts) -> str | None:
    """The key of config.json that says there is an image tower, or the tower's first tensor; None: there is none."""
    for key in _SIGNS:
        if facts.config.get(key):
            return f"config.json: {key}"
    return next((tensor.name for tensor in facts.tensors if part_of(tensor.name) == "tower"), None)


def unsupported_images(facts: Facts) -> str | None:
    """Why no engine of this version runs a model that reads images, with what says that it does; else None."""
    sign = image_tower(facts)
    return (
        None
        if sign is None
        else f"it reads images ({sign}), and no engine of this version runs an image tower"
    )


def activation_bytes(image: Image, size: int = 2) -> int:
    """Temporaries alive at once in one layer of the tower, for all tiles of an image: the stream, its norm, and the
    larger of the attention's heads and of the MLP. Scores are computed in pieces."""
    widest = max(4 * image.hidden, 2 * image.inner)
    return image.tiles * image.patches * (2 * image.hidden + widest) * size


# ---------------------------------------------------------------- images


def image_of(facts: Facts) -> Image | None:
    """What config.json says of images; None where it says too little, or contradicts itself."""
    try:
        return _image_of(facts)
    except (TypeError, ValueError, ArithmeticError):
        return None


def _image_of(facts: Facts) -> Image | None:
    config = facts.config
    whole = config.get("thinker_config")  # Qwen-Omni: beside what speaks
    parts = [config, whole] if isinstance(whole, dict) else [config]
    vision = next(
        (p[key] for p in parts for key in ("vision_config", "visual") if isinstance(p.get(key), dict)), None
    )
    if vision is None:
        return None
    patch, side = _int(vision, "patch_size"), _int(vision, "image_size")
    if config.get("slice_mode"):  # MiniCPM-V: the tower takes more, and slices are of this side
        side = _int(config, "image_size")
    merge = _int(vision, "spatial_merge_size")
    hidden = _int(
        vision, "embed_dim", "hidden_size", "width"
    )  # Qwen2-VL: hidden_size is the language model's
    inner = _int(vision, "intermediate_size") or int(hidden * float(vision.get("mlp_ratio") or 4))
    if not patch or not hidden:
        return None
    if merge:  # Qwen2-VL, GLM-4.1V: any resolution, a token for so many pixels
        unit = patch * merge
        edge = round(_MEGAPIXEL / unit)
        return Image(
            tile=edge * unit,
            patches=(edge * merge) ** 2,
            tiles=1,
            tokens=edge * edge,
            hidden=hidden,
            inner=inner,
            unit=unit,
        )
    if not side:
        return None
    patches = (side // patch) ** 2
    each, tiles, extra = _tokens(facts, vision, patches)
    return Image(
        tile=side,
        patches=patches,
        tiles=tiles,
        tokens=each * tiles + extra,
        hidden=hidden,
        inner=inner,
    )


def _tokens(facts: Facts, vision: dict[str, Any], patches: int) -> tuple[int, int, int]:
    """(tokens of a tile, tiles of an image at most, tokens beside them)."""
    config = facts.config
    if ratio := config.get("downsample_ratio"):  # InternVL
        most = _int(config, "max_dynamic_patch") if config.get("dynamic_image_size") else 1
        thumbnail = most > 1 and config.get("use_thumbnail") is True
        return int(patches * float(ratio) ** 2), most + thumbnail, 0
    if pooled := _int(config, "mm_tokens_per_image"):  # Gemma 3
        return pooled, 1, 0
    if queries := _int(vision, "n_queries"):  # Qwen-VL
        return queries, 1, 0
    if queries := _int(config, "query_num"):  # MiniCPM-V
        slices = config.get("slice_config")
        most = _int(slices, "max_slice_nums") if isinstance(slices, dict) else 0
        return queries, most + 1 if config.get("slice_mode") else 1, 0
    pinpoints = config.get("image_grid_pinpoints")
    if isinstance(pinpoints, list) and pinpoints:  # LLaVA-NeXT: a token ends each row of the tiles
        side, edge = _int(vision, "image_size"), math.isqrt(patches)
        grids = [(h // side, w // side) for h, w in pinpoints]
        rows, columns = max(grids, key=lambda grid: edge * edge * grid[0] * grid[1] + edge * grid[0])
        return patches, rows * columns + 1, rows * edge
    shrunk = next((t for t in facts.tensors if t.name.endswith("vision.conv.weight")), None)
    if facts.model_type in ("cogvlm", "cogvlm2", "chatglm"):  # a vector before and one after the image
        return patches // (shrunk.shape[-1] ** 2 if shrunk else 1), 1, 2
    return patches, 1, 0


def _int(config: dict[str, Any], *names: str) -> int:
    for name in names:
        value = config.get(name)
        if isinstance(value, list) and len(set(map(str, value))) == 1:  # Intern-S1: height and width
            value = value[0]
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return 0
