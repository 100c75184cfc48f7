"""Every shipped recipe keeps its word: it plans on the machine that it asks for, or says why nothing runs it."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
from gallery import GIB, Case, case_id, cases, facts_of, load, machines, plan, smallest_machine
from published import FILES, PARAMETERS

from deploykit import shipped
from deploykit.checkpoint import read_facts
from deploykit.deployment.templates import choose_template
from deploykit.plan import PlanError, make_plan
from deploykit.plan.outline import Inputs, TooSmallError, outline
from deploykit.recipe import LoadedRecipe
from deploykit.recipe.schema import Recipe

CASES = cases()
SUPPORTED = [case for case in CASES if load(*case).recipe.unsupported is None]
UNSUPPORTED = [case for case in CASES if load(*case).recipe.unsupported is not None]
PLAIN = ("bfloat16", "float16")


def by_model(given: list[Case]) -> list[Case]:
    """One case for each checkpoint: profiles of KV memory change nothing of it."""
    found = {
        (load(*case).recipe.model.facts, load(*case).recipe.chat.capability): case for case in reversed(given)
    }
    return sorted(found.values())


@pytest.mark.parametrize("name", shipped.names())
def test_it_is_a_valid_recipe_that_says_what_it_is(name: str) -> None:
    recipe = load(name).recipe  # which is valid, with each profile, or nothing here would be collected
    assert recipe.name in (None, name)
    assert recipe.description
    assert recipe.server.port == 23333  # one for all: none of them takes another's place by surprise
    head = shipped.path(name).read_text().split("\nversion:")[0]
    assert head.startswith("# yaml-language-server: $schema=../schemas/recipe.v1.json\n")
    assert re.search(rf"deploykit (up|plan) (recipes/)?{re.escape(name)}", head)


@pytest.mark.parametrize("case", by_model(CASES), ids=case_id)
def test_its_facts_are_of_its_checkpoint(case: Case) -> None:
    """The description names a checkpoint that the recipe fetches."""
    loaded = load(*case)
    model = loaded.recipe.model
    assert model.facts is not None
    described = json.loads(Path(model.facts).read_text())["model"]
    assert described in _ids(loaded)


def _ids(loaded: LoadedRecipe) -> set[str]:
    model = loaded.recipe.model
    given = [getattr(s, hub, None) for s in model.sources or () for hub in ("hf", "modelscope")]
    return {name for name in (model.id, *given) if name}


def test_every_description_belongs_to_a_recipe() -> None:
    used = {Path(load(*case).recipe.model.facts or "").name for case in CASES}
    assert {file.name for file in shipped.facts_folder().iterdir()} == used


# ---------------------------------------------------------------- recipes that run


@pytest.mark.parametrize("case", SUPPORTED, ids=case_id)
def test_it_plans_on_the_smallest_machine_that_it_asks_for(case: Case) -> None:
    loaded = load(*case)
    facts = facts_of(loaded)
    made = plan(*case)
    assert made.total_bytes <= made.memory_limit
    assert made.session_len >= min(2048, facts.max_position_embeddings)
    if isinstance(asked := loaded.recipe.engine.session_len, int):
        assert made.session_len == asked
    weights = sum(item.bytes for item in made.memory if item.name in ("weights", "embeddings", "vision"))
    if facts.quantization is None and facts.weight_dtype in PLAIN and made.dtype != "float32":
        # A tied table is there twice on a CPU, and in pytorch's products; never less than the weights themselves.
        table = 2 * facts.vocab_size * facts.hidden_size
        low = facts.stored_bytes - (table if facts.tie_word_embeddings else 0)
        assert 0.99 * low <= weights <= 1.01 * (facts.stored_bytes + table)


@pytest.mark.parametrize("name", [name for name, profile in SUPPORTED if not profile])
def test_it_asks_for_no_more_than_it_needs(name: str) -> None:
    """Two thirds of the memory that it requires doesn't hold it."""
    loaded = load(name)
    need = loaded.recipe.requires.memory
    if name == "smollm2-135m":  # for any machine
        assert need is None
        return
    assert need is not None
    if need < 4 * GIB:  # mostly what a process takes, whatever the model
        return
    _, machine = smallest_machine(loaded)
    free = need * 2 // 3
    if machine.gpus:
        gpu = msgspec.structs.replace(machine.gpus[0], free_bytes=free)
        machine = msgspec.structs.replace(machine, gpus=(gpu,))
    else:
        machine = msgspec.structs.replace(machine, memory_available=free)
    with pytest.raises(TooSmallError):
        outline(Inputs(loaded.recipe, facts_of(loaded), machine))


@pytest.mark.parametrize("case", by_model(SUPPORTED), ids=case_id)
def test_its_chat_template_is_known(case: Case) -> None:
    loaded = load(*case)
    template = choose_template(loaded, facts_of(loaded))
    if loaded.recipe.chat.capability in ("completion", "python"):
        assert template.capability == loaded.recipe.chat.capability
    else:
        assert template.chat


@pytest.mark.parametrize("case", by_model(SUPPORTED), ids=case_id)
def test_the_engine_has_the_architecture(case: Case) -> None:
    """What the plan takes for granted of pytorch: transformers' class, and a config that it accepts."""
    if plan(*case).engine != "pytorch":
        return
    facts = facts_of(load(*case))
    from deploykit.engine.pytorch.model import model_class, model_config

    assert model_class(facts).__name__ == facts.architecture
    assert model_config(facts).model_type == facts.model_type


# ---------------------------------------------------------------- recipes that don't


@pytest.mark.parametrize("case", by_model(UNSUPPORTED), ids=case_id)
def test_it_is_refused_with_its_reason(case: Case) -> None:
    loaded = load(*case)
    facts = facts_of(loaded)
    with pytest.raises(PlanError) as caught:
        make_plan(loaded.recipe, facts, dict(machines())["h200"], name=loaded.name)
    assert caught.value.why == (loaded.recipe.unsupported or "").strip()
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("case", by_model(UNSUPPORTED), ids=case_id)
def test_nothing_would_run_it(case: Case) -> None:
    """Without its key no engine takes it, on no machine: the day one does, the key has to go."""
    loaded = load(*case)
    recipe = Recipe.model_validate({**loaded.recipe.model_dump(exclude_unset=True), "unsupported": None})
    by_name = dict(machines())
    for name in ("b200", "server-2048"):
        with pytest.raises(PlanError, match="no engine runs"):
            make_plan(recipe, facts_of(loaded), by_name[name], name=loaded.name)


# ---------------------------------------------------------------- figures that are known otherwise


@pytest.mark.parametrize("name", sorted(PARAMETERS))
def test_its_parameters_are_the_published_ones(name: str) -> None:
    assert facts_of(load(name)).num_parameters == pytest.approx(PARAMETERS[name], rel=0.01)


def test_every_text_model_has_a_published_count() -> None:
    text = {name for name in shipped.names() if not _sees(facts_of(load(name)).config)}
    assert text - set(PARAMETERS) == {"smollm2-135m"}


def _sees(config: dict[str, Any]) -> bool:
    """Whether config.json has a part for images."""
    thinker = config.get("thinker_config") or {}  # Qwen-Omni
    return any(re.search(r"vision|visual|img|image|^mm_|^vit", key) for key in (*config, *thinker))


@pytest.mark.parametrize("case", sorted(FILES))
def test_quantized_files_have_their_published_size(case: str) -> None:
    name, _, profile = case.partition("+")
    assert facts_of(load(name, profile)).stored_bytes == pytest.approx(FILES[case], rel=0.01)


@pytest.mark.parametrize("case", [case for case in CASES if case[1] in ("awq", "gptq")], ids=case_id)
def test_a_quantized_variant_has_the_parameters_of_the_model(case: Case) -> None:
    plain, packed = facts_of(load(case[0])), facts_of(load(*case))
    assert packed.quant_method == case[1]
    head = plain.vocab_size * plain.hidden_size  # some bring a head of their own where the model's is tied
    assert packed.num_parameters in (plain.num_parameters, plain.num_parameters + head)
    assert packed.stored_bytes < plain.stored_bytes * 0.8


def test_smollm2_is_described_as_its_file_is(smollm2: Path) -> None:
    """The same plan from the file and from its description."""
    loaded = load("smollm2-135m")
    for name in ("laptop", "h100"):
        from deploykit.hardware import catalog

        described = catalog.named(name)
        assert described is not None
        plans = [
            make_plan(loaded.recipe, facts, described.machine, name="x")
            for facts in (read_facts(smollm2), facts_of(loaded))
        ]
        one, other = (msgspec.structs.replace(plan, model_path="") for plan in plans)
        assert one == other


def test_no_two_recipes_are_the_same() -> None:
    counts = Counter(next(iter(sorted(_ids(load(name))))) for name in shipped.names())
    assert counts.most_common(1)[0][1] == 1


def test_the_page_lists_what_is_shipped() -> None:
    """`python tests/tools/gallery_table.py --write` after a recipe has changed."""
    from gallery_table import PAGE, page  # type: ignore[import-not-found,unused-ignore]

    assert PAGE.read_text() == page()
