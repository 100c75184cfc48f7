"""Image towers: their weights apart, the tokens of an image, and what a plan says of a model that no engine runs."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from plan_machines import GIB, QWEN3_8B, gpu_machine, recipe
from plan_machines import H100 as CARD
from plan_models import MODELS

from deploykit.checkpoint.facts import Facts, TensorInfo
from deploykit.plan import PlanError, make_plan
from deploykit.plan.outlook import Outlook, outlook
from deploykit.plan.vision import activation_bytes, image_of, image_tower, part_of, tower_bytes

CLIP = {"image_size": 336, "patch_size": 14, "hidden_size": 1024, "intermediate_size": 4096}
INTERN_VIT = {"image_size": 448, "patch_size": 14, "hidden_size": 1024, "intermediate_size": 4096}
GRIDS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]


def with_tower(config: dict[str, Any], model_type: str = "x", *tensors: tuple[str, int]) -> Facts:
    extra = [TensorInfo(name, (size // 2,), "bfloat16", size, "m", 0) for name, size in tensors]
    return msgspec.structs.replace(
        QWEN3_8B, config=config, model_type=model_type, tensors=(*QWEN3_8B.tensors, *extra)
    )


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("vision_model.encoder.layers.0.attn.qkv.weight", "tower"),  # InternVL, DeepSeek-VL
        ("mlp1.1.weight", "projector"),
        ("vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight", "tower"),  # LLaVA
        ("model.vision_tower.vision_tower.vision_model.post_layernorm.bias", "tower"),
        ("multi_modal_projector.linear_1.weight", "projector"),
        ("image_newline", "projector"),
        ("visual.blocks.0.attn.qkv.weight", "tower"),  # Qwen2-VL
        ("transformer.visual.transformer.resblocks.0.mlp.c_fc.weight", "tower"),  # Qwen-VL
        ("model.visual.merger.mlp.0.weight", "tower"),
        ("model.vision.transformer.layers.0.attention.dense.weight", "tower"),  # CogVLM
        ("transformer.vision.linear_proj.gate_proj.weight", "tower"),  # GLM-4V
        ("model.vision_embed_tokens.img_projection.0.weight", "tower"),  # Phi-3-vision
        ("vpm.encoder.layers.0.self_attn.q_proj.weight", "tower"),  # MiniCPM-V
        ("resampler.query", "projector"),
        ("vit.vision_tower.vision_model.embeddings.class_embedding", "tower"),  # XComposer
        ("aligner.layers.0.weight", "projector"),
        ("model.mm_projector.0.weight", "projector"),
        # the language model, whatever it is wrapped in
        ("language_model.model.layers.0.mlp.up_proj.weight", None),
        ("model.layers.0.mlp.vision_mlp.gate_proj.weight", None),  # CogVLM: experts of the language model
        ("model.embed_tokens.weight", None),
        ("lm_head.weight", None),
    ],
)
def test_tensors_of_the_tower_by_name(name: str, part: str | None) -> None:
    assert part_of(name) == part


def test_bytes_of_a_tower() -> None:
    facts = with_tower({}, "x", ("vision_model.a", 6000), ("vision_model.b", 400), ("mlp1.0.weight", 80))
    assert tower_bytes(facts) == (6400, 80)
    assert tower_bytes(QWEN3_8B) == (0, 0)


@pytest.mark.parametrize(
    ("config", "model_type", "tokens"),
    [
        # (336 / 14)^2
        ({"vision_config": CLIP}, "llava", 576),
        # the base tile, 2 x 2 more, and a token for each of 48 rows
        ({"vision_config": CLIP, "image_grid_pinpoints": GRIDS}, "llava_next", 576 + 48 * 48 + 48),
        # (448 / 14)^2 / 4 = 256 a tile; 12 tiles and one of the whole image
        (
            {
                "vision_config": INTERN_VIT,
                "downsample_ratio": 0.5,
                "max_dynamic_patch": 12,
                "dynamic_image_size": True,
                "use_thumbnail": True,
            },
            "internvl_chat",
            13 * 256,
        ),
        # 256 queries of a resampler
        (
            {
                "visual": {
                    "image_size": 448,
                    "patch_size": 14,
                    "width": 1664,
                    "mlp_ratio": 4.9231,
                    "n_queries": 256,
                }
            },
            "qwen",
            256,
        ),
        # 96 queries a slice: 9 and the whole
        (
            {
                "vision_config": {**INTERN_VIT, "hidden_size": 1152},
                "image_size": 448,
                "query_num": 96,
                "slice_mode": True,
                "slice_config": {"max_slice_nums": 9},
            },
            "minicpmv",
            960,
        ),
        # (490 / 14)^2, a vector before and one after
        ({"vision_config": {"image_size": 490, "patch_size": 14, "hidden_size": 1792}}, "cogvlm", 1225 + 2),
    ],
)
def test_tokens_of_an_image(config: dict[str, Any], model_type: str, tokens: int) -> None:
    image = image_of(with_tower(config, model_type))
    assert image is not None
    assert image.tokens == tokens


def test_a_convolution_behind_the_tower_shares_its_patches_out() -> None:
    """CogVLM2: (1344 / 14)^2 = 9,216 patches, four a token."""
    config = {"vision_config": {"image_size": 1344, "patch_size": 14, "hidden_size": 1792}}
    facts = with_tower(config, "cogvlm2")
    conv = TensorInfo("model.vision.conv.weight", (1792, 1792, 2, 2), "bfloat16", 4, "m", 0)
    image = image_of(msgspec.structs.replace(facts, tensors=(*facts.tensors, conv)))
    assert image is not None
    assert image.tokens == 2304 + 2


def test_a_model_of_any_resolution_says_pixels_a_token() -> None:
    """Qwen2-VL: patches of 14, merged 2 x 2. 37 x 28 = 1,036 pixels are the next to a megapixel's side."""
    config = {
        "vision_config": {"patch_size": 14, "spatial_merge_size": 2, "embed_dim": 1280, "hidden_size": 3584}
    }
    image = image_of(with_tower(config, "qwen2_vl"))
    assert image is not None
    assert (image.unit, image.tile, image.tokens, image.hidden) == (28, 1036, 37 * 37, 1280)
    assert image.patches == 4 * 37 * 37


def test_activations_of_an_image() -> None:
    """InternVL2, 13 tiles of 1,024 patches: the stream and its norm (2 x 1024), the MLP's two sides (2 x 4096)."""
    config = {
        "vision_config": INTERN_VIT,
        "downsample_ratio": 0.5,
        "max_dynamic_patch": 12,
        "dynamic_image_size": True,
        "use_thumbnail": True,
    }
    image = image_of(with_tower(config))
    assert image is not None
    assert activation_bytes(image) == 13 * 1024 * (2 * 1024 + 2 * 4096) * 2


# ---------------------------------------------------------------- what a plan says


def test_what_would_be_taken() -> None:
    facts = with_tower(
        {"vision_config": CLIP}, "llava", ("vision_tower.x", 600 << 20), ("mm_projector.x", 40 << 20)
    )
    found = outlook(facts)
    rows = {item.name: item.bytes for item in found.memory}
    assert (rows["vision"], rows["projector"]) == (600 << 20, 40 << 20)
    assert rows["weights"] == QWEN3_8B.stored_bytes
    assert rows["kv"] == 8192 * 144 * 1024
    rest = sum(rows.values()) - rows["kv"]
    assert found.sessions(rest + 10 * rows["kv"], ratio=0.8) == 8


def test_the_recipes_settings_count() -> None:
    engine = recipe(engine={"session_len": 1024, "cache": {"quant_policy": "int4"}}).engine
    found = outlook(QWEN3_8B, engine)
    assert {item.name: item.bytes for item in found.memory}["kv"] == 1024 * 39_168
    assert [item.name for item in found.memory] == ["weights", "kv"]  # no tower, no rows for one


def test_layers_without_a_formula_are_named() -> None:
    facts = msgspec.structs.replace(QWEN3_8B, config={"layer_types": ["something_new"]})
    found = outlook(facts)
    assert found.kv is None
    assert "something_new" in str(found.problem)
    assert found.sessions(80 * GIB) == 0


@pytest.mark.parametrize(
    "config",
    [
        {"attn_layer_period": "8"},
        {"attention_chunk_size": [1]},
        {"linear_attn_config": {"full_attn_layers": 3}},
        {"hybrid_override_pattern": "M", "mamba_expand": "2"},
        {"layer_types": [["full_attention"]]},
        {"vision_config": {"patch_size": 14, "image_size": 28, "hidden_size": 64, "mlp_ratio": "wide"}},
        {"vision_config": CLIP, "image_grid_pinpoints": [1, 2]},
        {"vision_config": CLIP, "downsample_ratio": "half"},
        {
            "vision_config": {"patch_size": 14, "image_size": 336, "hidden_size": 8},
            "image_grid_pinpoints": [[0, 0]],
        },
    ],
)
def test_a_config_that_makes_no_sense_breaks_nothing(config: dict[str, Any]) -> None:
    found = outlook(msgspec.structs.replace(QWEN3_8B, config=config))
    assert found.memory[0].bytes == QWEN3_8B.stored_bytes


def _refused(facts: Facts) -> tuple[PlanError, Outlook]:
    with pytest.raises(PlanError) as caught:
        make_plan(recipe(), facts, gpu_machine(CARD), name="m")
    assert caught.value.outlook is not None
    return caught.value, caught.value.outlook


def test_a_model_that_reads_images_is_refused_with_what_it_would_take() -> None:
    for facts, sign in (
        (with_tower({"vision_config": CLIP}), "config.json: vision_config"),
        (with_tower({}, "x", ("vit.vision_tower.x", 100)), "vit.vision_tower.x"),
    ):
        error, found = _refused(facts)
        assert "reads images" in str(error.why)
        assert sign in str(error.why)
        assert error.memory == found.memory
        assert error.memory_limit == CARD.free_bytes


@pytest.mark.parametrize("name", ["deepseek", "qwen3-next", "llama4", "mamba", "jamba"])
def test_attention_that_no_engine_runs_is_refused_with_what_it_would_take(name: str) -> None:
    error, found = _refused(MODELS[name])
    weights = next(item.bytes for item in error.memory if item.name == "weights")
    assert weights == MODELS[name].stored_bytes
    # as data for programs too; what config.json lacks is named
    assert json.loads(msgspec.json.encode(found))["kv"] is not None or found.problem


def test_text_models_have_no_tower() -> None:
    assert all(image_tower(facts) is None for facts in MODELS.values())
