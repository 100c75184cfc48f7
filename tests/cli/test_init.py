"""`deploykit init`: the recipe that it writes is the one that `up` implies, with what the plan chose written out."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import msgspec
import pytest
from terminal import Terminal

from deploykit import shipped
from deploykit.cli.app import main
from deploykit.deployment.target import open_target, recipe_from_target
from deploykit.plan import PlanError
from deploykit.plan.fitting import changes_in, fitting, plan_fitting
from deploykit.plan.make import plan_of
from deploykit.plan.outline import Inputs, NativeProblems
from deploykit.recipe import load_recipe, recipe_from_data

NO_NATIVE = NativeProblems("no compiler", "no compiler")


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def made(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    assert main(["init", *args]) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def facts_of(folder: Path):
    from deploykit.checkpoint import read_facts

    return read_facts(str(folder), "auto")


def machine_with(gib: float):
    """This machine with so much memory, and no GPU."""
    from deploykit.hardware import probe

    size = int(gib * (1 << 30))
    return msgspec.structs.replace(probe(), memory_total=size, memory_available=size, gpus=())


# ---------------------------------------------------------------- a model


def test_what_init_writes_is_what_up_implies(
    tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made(capsys, str(tiny_checkpoint), "-o", "x.yaml", "--offline")
    written = load_recipe("x.yaml")
    implied = open_target(str(tiny_checkpoint))
    # Beside the values that the plan chose, the two are the same recipe.
    data = recipe_from_target(str(tiny_checkpoint)).data
    engine = written.merged.data["engine"]
    assert set(engine) == {"session_len", "max_batch_size"}
    assert recipe_from_data({**data, "engine": engine, "name": written.name}, "x").recipe == written.recipe
    assert written.name == implied.name
    # And so are their plans, to the byte.
    facts, machine = facts_of(tiny_checkpoint), machine_with(8)
    ours = plan_of(Inputs(written.recipe, facts, machine, NO_NATIVE), "m")
    theirs = plan_of(Inputs(implied.recipe, facts, machine, NO_NATIVE), "m")
    assert msgspec.structs.replace(ours, decisions=()) == msgspec.structs.replace(theirs, decisions=())


def test_every_value_has_its_reason_above_it(
    tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = made(capsys, str(tiny_checkpoint), "-o", "-")
    lines = text.splitlines()
    assert lines[0] == f"# yaml-language-server: $schema={shipped.schema_path()}"
    for key in ("session_len", "max_batch_size"):
        at = next(i for i, line in enumerate(lines) if re.match(rf"  {key}: \d+$", line))
        assert lines[at - 1].startswith("  # ")
    assert "# backend: auto" in text
    assert "fitted to this machine" in text
    assert not list(Path().iterdir())  # it was printed, and nothing else


def test_a_gguf_file(smollm2: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made(capsys, str(smollm2), "-o", "new/folder/gguf.yaml")
    recipe = load_recipe("new/folder/gguf.yaml").recipe
    assert recipe.model.path == str(smollm2)
    assert recipe.engine.session_len == 8192
    assert main(["plan", "new/folder/gguf.yaml"]) == 0


def test_a_model_in_the_recipes_folder_is_named_from_there(
    tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("models").symlink_to(tiny_checkpoint.parent)
    Path("mine").mkdir()
    for file in tiny_checkpoint.iterdir():
        (Path("mine") / file.name).write_bytes(file.read_bytes())
    text = made(capsys, "mine", "-o", "-")
    assert "\n  path: ./mine\n" in text


def test_what_it_is_for(tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained = facts_of(tiny_checkpoint).max_position_embeddings
    assert f"session_len: {trained}" in made(capsys, str(tiny_checkpoint), "-o", "-", "--use", "long")
    many = made(capsys, str(tiny_checkpoint), "-o", "-", "--use", "many")
    assert f"session_len: {min(4096, trained)}" in many


def test_values_that_are_asked_for_are_planned_with_and_written(
    tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sets = [
        "engine.session_len=64",
        "server.port=9000",
        "chat.defaults.stop=[x, 'a, b']",
        "model.dtype=float32",
    ]
    text = made(
        capsys, str(tiny_checkpoint), "-o", "set.yaml", *(part for s in sets for part in ("--set", s))
    )
    assert "engine.session_len: 64" in text
    recipe = load_recipe("set.yaml").recipe
    assert (recipe.engine.session_len, recipe.server.port, recipe.model.dtype) == (64, 9000, "float32")
    assert recipe.chat.defaults.stop == ["x", "a, b"]
    assert main(["init", str(tiny_checkpoint), "--set", "engine.sesion_len=1"]) == 2
    assert "did you mean" in capsys.readouterr().err


def test_nothing_is_overwritten_and_nothing_half_written(
    tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("mine.yaml").write_text("mine")
    assert main(["init", str(tiny_checkpoint), "-o", "mine.yaml"]) == 2
    assert "is there already" in capsys.readouterr().err
    assert Path("mine.yaml").read_text() == "mine"

    def comes_meanwhile(*args: object) -> None:
        Path("late.yaml").write_text("theirs")

    monkeypatch.setattr("deploykit.cli._recipe_files.refuse_taken", comes_meanwhile)
    assert main(["init", str(tiny_checkpoint), "-o", "late.yaml"]) == 2
    assert Path("late.yaml").read_text() == "theirs"
    assert sorted(p.name for p in Path().iterdir()) == ["late.yaml", "mine.yaml"]


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["nowhere"], 2, "there is no 'nowhere'"),
        (["owner/nothing-like-it", "--offline"], 1, ""),
        (["smollm2-135m", "-o", "x.txt"], 2, "no name for a recipe"),
        (["smollm2-135m", "--fetch", "--offline"], 2, "exclude each other"),
        (["smollm2-135m", "--machine", "h1000"], 2, "no machine called"),
        (["smollm2-135m", "--profile", "nothing"], 2, "no profile"),
    ],
)
def test_refusals(args: list[str], code: int, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", *args]) == code
    assert words in capsys.readouterr().err
    assert not list(Path().iterdir())


# ---------------------------------------------------------------- a recipe


def test_a_shipped_recipe_keeps_its_text(smollm2: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made(capsys, "smollm2-135m")
    text = Path("smollm2-135m.yaml").read_text()
    source = shipped.path("smollm2-135m").read_text()
    assert set(source.splitlines()[1:]) <= set(text.splitlines())
    recipe, original = (
        load_recipe("smollm2-135m.yaml").recipe,
        load_recipe(shipped.path("smollm2-135m")).recipe,
    )
    assert recipe.engine.session_len == 8192
    for section in ("model", "chat", "server"):
        ours, theirs = (json.dumps(getattr(r, section).model_dump()) for r in (recipe, original))
        assert ours.replace(str(Path.cwd()), "") == theirs.replace(str(shipped.folder()), "")


def test_a_recipe_of_ones_own(tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.yaml").write_text(
        f"version: 1\nmodel: {{path: {tiny_checkpoint}}}  # here\nengine:\n  max_batch_size: auto  # as many as go\n"
        "profiles: {quick: {engine: {max_batch_size: 1}, chat: {system: Be brief.}}}\n"
    )
    made(capsys, "a.yaml", "-o", "b.yaml")
    text = Path("b.yaml").read_text()
    assert "# as many as go" in text
    assert isinstance(load_recipe("b.yaml").recipe.engine.max_batch_size, int)
    made(capsys, "a.yaml", "-o", "c.yaml", "--profile", "quick")
    recipe = load_recipe("c.yaml").recipe
    assert (recipe.engine.max_batch_size, recipe.chat.system) == (1, "Be brief.")


def test_a_recipe_whose_files_lie_beside_it_stays_there(
    tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("there").mkdir()
    Path("there/model").symlink_to(tiny_checkpoint)
    Path("there/a.yaml").write_text("version: 1\nmodel: {path: model}\n")
    assert main(["init", "there/a.yaml", "-o", "b.yaml"]) == 2
    assert "-o there/b.yaml" in capsys.readouterr().err
    made(capsys, "there/a.yaml", "-o", "there/b.yaml")
    assert load_recipe("there/b.yaml").recipe.model.path == load_recipe("there/a.yaml").recipe.model.path


# ---------------------------------------------------------------- what doesn't fit


def inputs_of(folder: Path, gib: float, **engine: object) -> Inputs:
    data = {"version": 1, "model": {"path": str(folder)}, "engine": engine}
    return Inputs(recipe_from_data(data, "m").recipe, facts_of(folder), machine_with(gib), NO_NATIVE)


def least(folder: Path) -> float:
    """GiB with which the model just doesn't fit as it is."""
    low, high = 0.0, 8.0
    while high - low > 1e-4:
        middle = (low + high) / 2
        try:
            plan_of(inputs_of(folder, middle), "m")
            high = middle
        except PlanError:
            low = middle
    return low


def test_the_cheapest_change_is_made_where_it_does_not_fit(smollm2: Path) -> None:
    gib = least(smollm2)
    inputs, edits = fitting(inputs_of(smollm2, gib))
    assert edits, "a machine that is a little too small is one that a change helps"
    assert edits[0].cost
    plan = plan_of(inputs, "m")
    _, same = plan_fitting(inputs_of(smollm2, gib), "m")
    assert same.num_blocks == plan.num_blocks
    assert edits[0].key in changes_in(same)[0]
    assert "does not fit otherwise" in changes_in(same)[0]


def test_what_somebody_stated_is_not_changed(smollm2: Path) -> None:
    gib = least(smollm2)
    _, edits = fitting(inputs_of(smollm2, gib))
    section: dict[str, object] = {}
    for edit in edits:  # stated as it is by default
        assert edit.key.startswith("engine.")
        parts = edit.key.split(".")[1:]
        current = inputs_of(smollm2, gib).value(edit.key)
        value: object = {parts[1]: current} if len(parts) == 2 else (256 if current == "auto" else current)
        section[parts[0]] = value
    _, others = fitting(inputs_of(smollm2, gib, **section))
    assert not {edit.key for edit in others} & {edit.key for edit in edits}


def test_nothing_is_changed_where_it_fits_or_nothing_helps(smollm2: Path) -> None:
    assert fitting(inputs_of(smollm2, 8))[1] == ()
    assert fitting(inputs_of(smollm2, 0.05))[1] == ()
    with pytest.raises(PlanError):
        plan_fitting(inputs_of(smollm2, 0.05), "m")


def test_a_recipe_without_an_engine_is_refused_in_its_own_words(capsys: pytest.CaptureFixture[str]) -> None:
    name = next(n for n in shipped.names() if load_recipe(shipped.path(n)).recipe.unsupported)
    reason = load_recipe(shipped.path(name)).recipe.unsupported
    assert main(["init", name, "--machine", "h100", "--offline"]) == 3
    assert f"why:   {reason}" in capsys.readouterr().err


def test_a_variant_that_fits_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with_awq = [
        n for n in shipped.names() if "awq" in load_recipe(shipped.path(n)).all_profiles and "32b" in n
    ]
    assert with_awq
    assert main(["init", with_awq[0], "--machine", "4090", "--offline"]) == 3
    assert "fix:   --profile awq; or " in capsys.readouterr().err
    told = made(capsys, with_awq[0], "--machine", "4090", "--offline", "--profile", "awq")
    for file in (Path(f"{with_awq[0]}.yaml"), *Path("facts").iterdir()):
        assert f"wrote {file}\n" in told  # every file that wasn't there before
    assert main(["plan", f"{with_awq[0]}.yaml", "--machine", "4090", "--offline"]) == 0
    assert len(list(Path("facts").iterdir())) == 1  # what it names, and not what the other variants do


# ---------------------------------------------------------------- nobody says which model


def test_in_a_pipe_it_says_what_to_give(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init"]) == 2
    assert "deploykit init MODEL" in capsys.readouterr().err


DUMB = {**os.environ, "TERM": "dumb"}
XTERM = {**os.environ, "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"}  # nobody tells it where the cursor is
PROGRAM = [sys.executable, "-m", "deploykit", "init"]


def test_on_a_terminal_it_asks(smollm2: Path, tmp_path: Path) -> None:
    Path("smollm2-135m.yaml").write_text("taken")
    with Terminal(PROGRAM, XTERM, tmp_path) as terminal:
        terminal.type("", until="completes):")
        terminal.type("nowhere\r", until="there is no")
        terminal.type(f"\x15{smollm2}\r", until="Use [chat]:")
        terminal.type("many\r", until="File:")
        terminal.type("\x15smollm2-135m.yaml\r", until="is there already")
        terminal.type("\x15wizard.yaml\r", until="deploykit up wizard.yaml")
    assert load_recipe("wizard.yaml").recipe.engine.session_len == 4096


def test_a_terminal_that_can_do_nothing_is_asked_in_lines(smollm2: Path, tmp_path: Path) -> None:
    with Terminal(PROGRAM, DUMB, tmp_path) as terminal:
        terminal.type("", until="completes):")
        terminal.type("nowhere\n", until="completes):")
        terminal.type(f"{smollm2}\n", until="Use [chat]:")
        terminal.type("\n", until="q4_1.yaml]: ")
        terminal.type("\n", until="deploykit up smollm2")
    assert len(list(tmp_path.glob("*.yaml"))) == 1


@pytest.mark.parametrize(
    ("kind", "key"),
    [(XTERM, "\x03"), (XTERM, "\x04"), (DUMB, "\x04")],
    ids=["xterm-ctrl-c", "xterm-ctrl-d", "dumb-ctrl-d"],
)
def test_the_wizard_is_left_with_ctrl_c_and_ctrl_d(kind: dict[str, str], key: str, tmp_path: Path) -> None:
    shell = ["sh", "-c", f"trap : INT; {' '.join(PROGRAM)}; echo code=$?"]
    with Terminal(shell, kind, tmp_path) as terminal:
        terminal.type("", until="completes):")
        terminal.type(key, until="code=130")
    assert not list(tmp_path.glob("*.yaml"))


def test_up_plan_and_init_make_the_same_change(smollm2: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("plain.yaml").write_text(f"version: 1\nmodel: {{path: {smollm2}}}\n")
    machine = msgspec.to_builtins(machine_with(8))

    def planned(target: str, gib: float) -> tuple[int, dict]:
        size = int(gib * (1 << 30))
        Path("small.json").write_text(json.dumps({**machine, "memory_total": size, "memory_available": size}))
        code = main(["plan", target, "--machine", "small.json", "--json"])
        return code, json.loads(capsys.readouterr().out)

    low, high = 0.0, 8.0
    while high - low > 1e-3:  # the most memory with which a recipe that somebody wrote is refused
        middle = (low + high) / 2
        low, high = (low, middle) if planned("plain.yaml", middle)[0] == 0 else (middle, high)
    code, plan = planned(str(smollm2), low)
    assert code == 0
    change = next(d for d in plan["plan"]["decisions"] if d["reason"].endswith("does not fit otherwise"))
    made(capsys, str(smollm2), "--machine", "small.json", "-o", "small.yaml")
    recipe = load_recipe("small.yaml").recipe
    value = recipe
    for part in change["key"].split("."):
        value = getattr(value, part)
    assert str(value) == change["value"]
    written = planned("small.yaml", low)[1]["plan"]
    for key in ("session_len", "max_batch_size", "num_blocks", "kv_dtype", "engine"):
        assert written[key] == plan["plan"][key]
