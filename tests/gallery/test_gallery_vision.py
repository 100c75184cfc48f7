"""The recipes of vision models: what their checkpoints are, what they would take, and that nothing runs them yet."""

from __future__ import annotations

import json

import pytest

from deploykit import shipped
from deploykit.checkpoint.described import read_described
from deploykit.checkpoint.facts import Facts
from deploykit.cli.app import main
from deploykit.deployment.templates import choose_template
from deploykit.hardware import catalog
from deploykit.plan import PlanError, make_plan
from deploykit.plan.vision import image_of, tower_bytes
from deploykit.recipe import LoadedRecipe, load_recipe

GIB = 1 << 30

# name -> (billions of parameters as the makers state them, KiB of KV memory a token, tokens of the largest image)
# None: config.json doesn't say how large an image may be.
MODELS: dict[str, tuple[float, float, int | None]] = {
    # an image is 13 tiles of 256 tokens
    "internvl2-2b": (2.21, 2 * 24 * 8 * 128 * 2 / 1024, 3328),
    "internvl2-4b": (4.15, 2 * 32 * 32 * 96 * 2 / 1024, 3328),
    "internvl2-8b": (8.08, 128, 3328),
    "internvl2-26b": (25.5, 192, 3328),
    "internvl2-40b": (40.1, 240, 3328),
    "internvl2-llama3-76b": (76.3, 320, 3328),
    "internvl-chat-v1.5": (25.5, 192, 3328),
    "mini-internvl-2b": (2.21, 96, 3328),
    "mini-internvl-4b": (4.15, 384, 3328),
    "llava-1.5-7b": (7.06, 512, 576),
    "llava-1.5-13b": (13.4, 800, 576),
    # the whole at 576, 2 x 2 tiles of 576, and a token for each of 48 rows
    "llava-1.6-vicuna-7b": (7.06, 512, 2928),
    "llava-1.6-vicuna-13b": (13.4, 800, 2928),
    "llava-1.6-mistral-7b": (7.57, 128, 2928),
    "llava-1.6-34b": (34.8, 240, 2928),
    "qwen-vl": (9.66, 512, 256),
    # any size: a megapixel is 37 x 37 tokens
    "qwen2-vl-2b": (2.21, 28, 1369),
    "qwen2-vl-7b": (8.29, 56, 1369),
    "qwen2-vl-72b": (73.4, 320, 1369),
    "qwen2.5-vl-3b": (3.75, 36, 1369),
    "qwen2.5-vl-7b": (8.29, 56, 1369),
    "qwen2.5-vl-32b": (33.5, 256, 1369),
    "qwen2.5-vl-72b": (73.4, 320, 1369),
    "deepseek-vl-1.3b": (1.98, 192, None),
    "deepseek-vl-7b": (7.34, 480, None),
    "phi-3-vision": (4.15, 384, None),
    "cogvlm": (17.6, 512, 35 * 35 + 2),
    "cogvlm2": (19.5, 128, 48 * 48 + 2),
    "glm-4v-9b": (13.9, 40, 40 * 40 + 2),
    "minicpm-llama3-v-2.5": (8.54, 128, 960),
    "yi-vl-6b": (6.7, 64, None),
    "yi-vl-34b": (35.1, 240, None),
    "mini-gemini-7b": (6.77, 512, None),  # without its towers
    "internlm-xcomposer2-7b": (8.67, 128, None),
    "internlm-xcomposer2.5-7b": (8.68, 128, None),
    "internvl2.5-8b": (8.08, 128, 3328),
    "internvl3-8b": (7.94, 56, 3328),
    "internvl3.5-8b": (8.53, 144, 3328),
    "chemvlm-26b": (25.5, 192, 3328),
    "intern-s1": (241, 188, 3328),
    "intern-s1-mini": (8.54, 144, 3328),
    # any size: a megapixel is 32 x 32 tokens
    "qwen3-vl-8b": (8.77, 144, 1024),
    "qwen3-vl-30b-a3b": (31.1, 96, 1024),
    "qwen3-omni-30b-a3b": (35.3, 96, 1024),
    "glm-4.1v-9b": (10.3, 40, 1369),
    # one layer of six sees all of the context: 5, 8 and 10 of them
    "gemma-3-4b": (4.30, 2 * 5 * 4 * 256 * 2 / 1024, 256),
    "gemma-3-12b": (12.2, 2 * 8 * 8 * 256 * 2 / 1024, 256),
    "gemma-3-27b": (27.4, 2 * 10 * 16 * 128 * 2 / 1024, 256),
    "phi-3.5-vision": (4.15, 384, None),
    "minicpm-v-2.6": (8.10, 56, 640),
    "deepseek-vl2-tiny": (3.37, 60, None),
    "deepseek-vl2-small": (16.1, 27 * (512 + 64) * 2 / 1024, None),  # latent vectors
    "molmo-7b-d": (8.02, 56, None),
}
# a repository without the image tower
NO_TOWER = ("mini-gemini-7b",)
PROFILES = [
    (name, profile)
    for name in MODELS
    for profile in (None, "kv-int8", "awq")
    if profile != "awq" or (shipped.facts_folder() / f"{name}-awq.json").is_file()
]


def load(name: str, profile: str | None = None) -> tuple[LoadedRecipe, Facts]:
    loaded = load_recipe(shipped.path(name), profiles=(profile,) if profile else ())
    assert loaded.recipe.model.facts is not None
    return loaded, read_described(loaded.recipe.model.facts)


def refusal(loaded: LoadedRecipe, facts: Facts, *, stated: bool) -> PlanError:
    """What a plan for an H100 says, with the recipe's own `unsupported` or as if it weren't there."""
    machine = catalog.named("h200")
    assert machine is not None
    recipe = loaded.recipe if stated else loaded.recipe.model_copy(update={"unsupported": None})
    with pytest.raises(PlanError) as caught:
        make_plan(recipe, facts, machine.machine, name=loaded.name)
    return caught.value


def test_every_vision_recipe_stands_in_the_table() -> None:
    based = {
        name
        for name in shipped.names()
        if "_base/vision.yaml" in shipped.path(name).read_text(encoding="utf-8")
    }
    assert based == set(MODELS)


@pytest.mark.parametrize("name", MODELS)
def test_facts_are_the_makers(name: str) -> None:
    billions, kib, tokens = MODELS[name]
    loaded, facts = load(name)
    assert facts.num_parameters / 1e9 == pytest.approx(billions, rel=0.01)
    tower, _ = tower_bytes(facts)
    assert (tower > 0) is (name not in NO_TOWER)
    assert tower < facts.stored_bytes
    image = image_of(facts)
    assert (image.tokens if image else None) == tokens
    found = refusal(loaded, facts, stated=True).outlook
    assert found is not None
    assert found.kv is not None
    assert found.kv.token_bytes == kib * 1024 or found.kv.rows[0].kind == "window"


@pytest.mark.parametrize(("name", "profile"), PROFILES)
def test_plan_shows_what_it_would_take_and_refuses(name: str, profile: str | None) -> None:
    loaded, facts = load(name, profile)
    error = refusal(loaded, facts, stated=True)
    assert "image tower" in str(error.why)
    assert error.exit_code == 3
    total = sum(item.bytes for item in error.memory)
    stated = loaded.recipe.requires.memory
    assert stated is not None
    if profile != "kv-int8":  # what is required is stated for 16 bits
        assert total <= stated < total + GIB
    assert loaded.recipe.requires.gpu
    names = [item.name for item in error.memory]
    assert names[0] == "weights"
    assert names[-1] == "kv"
    assert ("vision" in names) is (name not in NO_TOWER)


@pytest.mark.parametrize(("name", "profile"), [(n, p) for n, p in PROFILES if p != "kv-int8"])
def test_no_engine_runs_it_even_where_the_recipe_doesnt_say_so(name: str, profile: str | None) -> None:
    error = refusal(*load(name, profile), stated=False)
    assert "reads images" in str(error.why)
    assert not any(candidate.accepted for candidate in error.candidates)


@pytest.mark.parametrize("name", MODELS)
def test_its_chat_template_is_known(name: str) -> None:
    found = choose_template(*load(name))
    assert found.capability == "chat"


def test_weights_at_four_bits_leave_the_tower_as_it_is() -> None:
    _, plain = load("internvl2-8b")
    _, packed = load("internvl2-8b", "awq")
    assert tower_bytes(packed) == tower_bytes(plain)
    assert packed.layout == "awq"
    assert packed.num_parameters == pytest.approx(plain.num_parameters, rel=0.001)
    # 6.98B of 8.08B parameters at 4 bits, and a scale and a zero point for 128 of them
    assert packed.stored_bytes < 0.4 * plain.stored_bytes


def test_keys_and_values_that_are_shared_under_other_names() -> None:
    assert load("glm-4v-9b")[1].num_kv_heads == 2  # multi_query_group_num
    assert load("cogvlm2")[1].num_kv_heads == 8  # num_multi_query_heads


def test_the_command_shows_it_to_people_and_to_programs(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["plan", "internvl2-8b", "--machine", "h100", "--offline"]
    assert main([*command, "--json"]) == 3
    data = json.loads(capsys.readouterr().out)
    assert data["fits"] is False
    assert data["plan"] is None
    rows = {item["name"]: item["bytes"] for item in data["error"]["memory"]}
    assert set(rows) == {"weights", "vision", "projector", "images", "kv"}
    assert rows["kv"] == 8192 * 128 * 1024
    assert [(row["kind"], row["layers"]) for row in data["error"]["kv"]["rows"]] == [("full", 32)]
    assert data["error"]["kv"]["token_bytes"] == 128 * 1024
    assert main(command) == 3
    out, err = capsys.readouterr()
    assert "the image tower" in out
    assert "8 KV heads of 128" in out
    assert "image tower" in err
