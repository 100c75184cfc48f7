"""Shipped recipes: found by name, listed, shown, copied so that the copy needs nothing of where it came from."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from deploykit import shipped
from deploykit.cli.app import main
from deploykit.deployment.target import located, open_target, refuse_shipped
from deploykit.errors import ConfigError
from deploykit.recipe import RecipeError, check_recipe, load_recipe
from deploykit.shipped.edit import drop, put, put_before, with_modeline
from deploykit.shipped.flatten import flatten
from deploykit.shipped.gallery import entries

BASE = """\
# what all of them share
version: 1
chat:
  defaults: {temperature: 0.7, top_p: 0.8}
engine:
  cache:
    prefix_caching: false
profiles:
  kv-int8:
    engine: {cache: {quant_policy: int8}}
"""
FAMILY = """\
extends: all.yaml
engine:
  session_len: 8192
model:
  facts: ../facts/tiny.json
server: {port: 8001}
"""
RECIPE = """\
# yaml-language-server: $schema=../schemas/recipe.v1.json
# Tiny: everything about it.

# What the family shares.
extends: _base/family.yaml

description: A tiny model  # of all things
requires: {memory: 20GiB, gpu: true, compute_capability: "8.0"}
model:
  # which
  id: owner/Tiny-Chat
  # format: auto

# How it talks.
chat:
  defaults: {top_k: 20}
  system: |
    You are
    # brief.

profiles:
  awq:
    model:
      id: owner/Tiny-Chat-AWQ
      facts: facts/tiny-awq.json

# server:
#   port: 1
"""
TENSORS = {
    "model.embed_tokens.weight": [[1000, 64], "bfloat16"],
    "model.layers.{0-1}.self_attn.{q_proj,k_proj,v_proj}.weight": [[64, 64], "bfloat16"],
}
PACKED = {
    "model.layers.{0-1}.mlp.up_proj.qweight": [[64, 8], "int32"],
    "model.layers.{0-1}.mlp.up_proj.scales": [[1, 64], "float16"],
}


@pytest.fixture
def gallery(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Shipped recipes of one family, and an empty working folder."""
    folder = tmp_path / "recipes"
    for name, text in {
        "_base/all.yaml": BASE,
        "_base/family.yaml": FAMILY,
        "tiny-7b.yaml": RECIPE,
        "tiny-14b.yaml": RECIPE.replace("A tiny model", "A model"),
        "later.yaml": "version: 1\ndescription: x\nunsupported: no engine has its attention\nmodel: {id: a/later}\n",
        "README.md": "not a recipe",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    config = {"model_type": "tiny", "max_position_embeddings": 32768}
    (folder / "facts").mkdir()
    (folder / "facts" / "tiny.json").write_text(json.dumps({"config": config, "tensors": TENSORS}))
    packed = {**config, "quantization_config": {"quant_method": "awq"}}
    (folder / "facts" / "tiny-awq.json").write_text(json.dumps({"config": packed, "tensors": PACKED}))
    monkeypatch.setattr(shipped, "folder", lambda: folder)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return folder


# ---------------------------------------------------------------- by name


def test_the_real_ones_are_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "smollm2-135m" in shipped.names()
    assert open_target("smollm2-135m").path == shipped.path("smollm2-135m")
    assert shipped.schema_path().is_file()
    assert located("smollm2-135m") == str(shipped.path("smollm2-135m"))
    assert main(["validate", "smollm2-135m"]) == 0


def test_a_file_or_a_folder_of_that_name_comes_first(gallery: Path, tmp_path: Path) -> None:
    assert open_target("later").recipe.model.id == "a/later"
    Path("later").write_text("version: 1\nmodel: {id: mine/own}\n")
    assert open_target("later").recipe.model.id == "mine/own"
    Path("tiny-7b").mkdir()
    with pytest.raises(ConfigError, match="isn't a model"):
        open_target("tiny-7b")


def test_a_copy_in_the_working_folder_comes_before_the_shipped_one(gallery: Path, tmp_path: Path) -> None:
    assert main(["cp", "tiny-7b"]) == 0
    Path("tiny-7b.yaml").write_text("version: 1\nmodel: {id: mine/changed}\n")
    assert open_target("tiny-7b").recipe.model.id == "mine/changed"
    assert located("tiny-7b") == str(tmp_path / "work" / "tiny-7b.yaml")
    assert main(["validate", "tiny-7b"]) == 0
    refuse_shipped("tiny-7b")  # a lock lies beside the copy
    with pytest.raises(ConfigError, match="lies with the program"):
        refuse_shipped("tiny-14b")


@pytest.mark.parametrize(
    ("target", "fix"),
    [
        ("tiny-7bb", "did you mean `tiny-7b`?"),
        ("recipes/tiny-7b.yaml", "needs no path: tiny-7b"),
        ("tiny-7b.yaml", "needs no path: tiny-7b"),
        ("zzz", "`deploykit ls` lists the shipped recipes"),
    ],
)
def test_a_wrong_name_is_told_with_the_right_one(gallery: Path, target: str, fix: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_target(target)
    assert fix in str(caught.value.fix)


@pytest.mark.parametrize(
    "url",
    [
        "https://huggingface.co/owner/name",
        "hf.co/owner/name/tree/main",
        "https://modelscope.cn/models/owner/name",
    ],
)
def test_an_address_of_a_hub_is_told_with_the_id(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_target(url)
    assert caught.value.fix == "the hub's id alone: owner/name"


def test_a_missing_file_elsewhere_is_told_as_ever(gallery: Path) -> None:
    with pytest.raises(RecipeError):
        open_target("somewhere/tiny-7b.yaml")


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../recipes/later", "_base", "facts", "x" * 300, "a\0b", "README", "later.yaml"]
)
def test_only_names_are_names(gallery: Path, name: str) -> None:
    assert shipped.find(name) is None


def test_names_are_in_a_persons_order(gallery: Path) -> None:
    assert shipped.names() == ["later", "tiny-7b", "tiny-14b"]


# ---------------------------------------------------------------- ls


def listed(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    assert main(["ls", *args]) == 0
    return capsys.readouterr().out


def test_ls_tells_what_each_is(gallery: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = listed(capsys).splitlines()
    assert len(rows) == 4
    assert re.split(r"\s{2,}", rows[2].strip()) == [
        "tiny-7b",
        "tiny",
        "88.6K",
        "32K",
        "20GiB gpu 8.0+",
        "kv-int8 awq",
        "A tiny model",
    ]
    assert "not yet: no engine has its attention" in rows[1]


def test_ls_for_a_machine(gallery: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = {row["name"]: row for row in json.loads(listed(capsys, "--json"))}
    assert rows["tiny-7b"]["parameters"] == 1000 * 64 + 2 * 3 * 64 * 64
    assert rows["tiny-7b"]["context"] == 32768
    assert rows["tiny-7b"]["profiles"] == ["kv-int8", "awq"]
    assert rows["tiny-7b"]["model"] == "owner/Tiny-Chat"
    assert (rows["tiny-7b"]["runs"], rows["later"]["runs"]) == (True, False)


def test_ls_of_a_family_or_of_words(gallery: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(json.loads(listed(capsys, "--json", "--family", "Tin"))) == 2
    assert [row["name"] for row in json.loads(listed(capsys, "--json", "tiny", "MODEL", "7b"))] == ["tiny-7b"]
    assert main(["ls", "--family", "nobody"]) == 2
    assert "families: tiny" in capsys.readouterr().err


def test_packed_weights_count_as_what_they_hold(gallery: Path) -> None:
    text = RECIPE.replace("id: owner/Tiny-Chat\n", "id: owner/Tiny-Chat\n  facts: facts/tiny-awq.json\n")
    (gallery / "packed.yaml").write_text(text)
    entry = next(e for e in entries() if e.name == "packed")
    assert entry.parameters == 2 * 64 * 64


def test_a_recipe_that_cant_be_read_is_a_row_too(gallery: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (gallery / "broken.yaml").write_text("version: [\n")
    (gallery / "alone.yaml").write_text("extends: _base/nothing.yaml\n")
    (gallery / "odd.yaml").write_text("model: 7\nrequires: none\ndescription: [x]\n")
    (gallery / "facts" / "tiny.json").write_text("{")
    text = listed(capsys)
    assert text.count("can't be read: ") == 2
    assert re.search(r"tiny-7b +- +- +-", text)


# ---------------------------------------------------------------- show


def test_show_is_the_file_with_what_it_extends_as_comments(
    gallery: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", "tiny-7b"]) == 0
    text = capsys.readouterr().out
    assert text.startswith(RECIPE)
    assert "# It extends _base/family.yaml:" in text
    assert "#   # what all of them share" in text
    (gallery / "shown.yaml").write_text(text)
    assert load_recipe(gallery / "shown.yaml").recipe == load_recipe(gallery / "tiny-7b.yaml").recipe
    assert main(["show", "tiny-7b", "--path"]) == 0
    assert capsys.readouterr().out == f"{gallery / 'tiny-7b.yaml'}\n"
    assert main(["show", "tiny-7b", "--path", "--merged"]) == 2
    assert main(["show", "tiny-8b"]) == 2
    assert "did you mean tiny-7b?" in capsys.readouterr().err


# ---------------------------------------------------------------- cp


def test_a_copy_stands_alone_and_means_the_same(gallery: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cp", "tiny-7b"]) == 0
    assert "with _base/all.yaml, _base/family.yaml written into it" in capsys.readouterr().out
    text = Path("tiny-7b.yaml").read_text()
    assert not re.search("^extends:", text, re.MULTILINE)
    for comment in (
        "# Tiny: everything about it.",
        "# which",
        "# format: auto",
        "# of all things",
        "    # brief.",
        "# server:",
    ):
        assert comment in text
    assert sorted(p.name for p in Path("facts").iterdir()) == ["tiny-awq.json", "tiny.json"]
    for profiles in ((), ("awq",), ("kv-int8",), ("awq", "kv-int8")):
        copy = load_recipe("tiny-7b.yaml", profiles=profiles).recipe.model_dump_json()
        source = load_recipe(gallery / "tiny-7b.yaml", profiles=profiles).recipe.model_dump_json()
        assert copy.replace(str(Path.cwd()), "") == source.replace(str(gallery), "")
    assert text.splitlines()[0] == f"# yaml-language-server: $schema={shipped.schema_path()}"
    assert main(["show", "tiny-7b", "--merged"]) == 0
    shown = capsys.readouterr().out
    assert shown.splitlines()[1:] == text.splitlines()[1:]


def test_every_shipped_recipe_can_be_copied(tmp_path: Path) -> None:
    for name in shipped.names():
        assert main(["cp", name, str(tmp_path / "copies") + "/"]) == 0
        assert check_recipe(tmp_path / "copies" / f"{name}.yaml", every_profile=True)


def test_nothing_is_overwritten_without_force(gallery: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.yaml").write_text("mine")
    assert main(["cp", "later", "mine.yaml"]) == 2
    assert "is there already" in capsys.readouterr().err
    assert Path("mine.yaml").read_text() == "mine"
    Path("facts").mkdir()
    Path("facts/tiny.json").write_text("mine")
    assert main(["cp", "tiny-7b"]) == 2
    assert not Path("tiny-7b.yaml").exists()
    Path("link.yaml").symlink_to("nowhere")
    assert main(["cp", "later", "link.yaml"]) == 2
    assert main(["cp", "later", "mine.yaml", "--force"]) == 0
    assert "no engine" in Path("mine.yaml").read_text()
    assert main(["cp", "tiny-7b", "--force"]) == 0
    assert Path("facts/tiny.json").read_text() != "mine"
    assert main(["cp", "tiny-14b"]) == 0  # the same facts are welcome
    assert not list(Path().rglob("*.partial"))


def test_where_a_copy_goes(gallery: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("here").mkdir()
    assert main(["cp", "later", "here"]) == 0
    assert main(["cp", "later", "there/"]) == 0
    assert main(["cp", "later", "deep/er/x.yml"]) == 0
    assert all(Path(p).is_file() for p in ("here/later.yaml", "there/later.yaml", "deep/er/x.yml"))
    assert main(["cp", "later", "x.txt"]) == 2
    assert "x.txt.yaml" in capsys.readouterr().err


def test_a_list_that_adds_to_another_is_written_as_both(gallery: Path) -> None:
    (gallery / "_base" / "all.yaml").write_text(BASE + "server: {model_names: [one]}\n")
    (gallery / "adds.yaml").write_text(
        "extends: _base/all.yaml\nmodel: {id: a/b}\nserver: {model_names: !append [two]} # mine\n"
    )
    assert main(["cp", "adds"]) == 0
    assert "server: {model_names: [one, two]} # mine\n" in Path("adds.yaml").read_text()
    assert load_recipe("adds.yaml").recipe.server == load_recipe(gallery / "adds.yaml").recipe.server


def test_a_list_that_can_not_be_added_to_in_place_is_refused(
    gallery: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (gallery / "_base" / "all.yaml").write_text(BASE + "server: {model_names: [one]}\n")
    (gallery / "adds.yaml").write_text(
        "extends: _base/all.yaml\nmodel: {id: a/b}\nserver: {model_names: !append &names [two]}\n"
    )
    assert main(["cp", "adds"]) == 1
    assert "the recipe adds to `server.model_names`" in capsys.readouterr().err
    assert not Path("adds.yaml").exists()


def test_a_recipe_with_mistakes_is_not_copied(gallery: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (gallery / "wrong.yaml").write_text("version: 1\nmodel: {id: a/b}\nprofiles: {x: {engin: {}}}\n")
    assert main(["cp", "wrong"]) == 2
    assert "engin" in capsys.readouterr().err


# ---------------------------------------------------------------- editing a text


@pytest.mark.parametrize(
    ("before", "path", "value", "after"),
    [
        ("a: 1\n", ("b",), 2, "a: 1\n\nb: 2\n"),
        ("a:\n  x: 1\nb: 2\n", ("a", "y"), "z", "a:\n  x: 1\n  y: z\nb: 2\n"),
        ("a:\n  x: 1\n\n# about b\nb: 2\n", ("a", "y"), 1, "a:\n  x: 1\n  y: 1\n\n# about b\nb: 2\n"),
        ("a:\n  x: 1\n  # y: 2\nb: 2\n", ("a", "z"), 1, "a:\n  x: 1\n  # y: 2\n  z: 1\nb: 2\n"),
        ("a: {x: 1} # c\n", ("a", "y"), [1, "b"], "a: {y: [1, b], x: 1} # c\n"),
        ("a: {}\n", ("a", "y"), 1, "a: {y: 1}\n"),
        ("a:\n    x: |\n      # no\nb: 1\n", ("a", "y"), 1, "a:\n    x: |\n      # no\n    y: 1\nb: 1\n"),
        ("a: 1\n", ("b", "c", "d"), True, "a: 1\n\nb:\n  c:\n    d: true\n"),
        ("a:\n  x: auto  # c\n", ("a", "x"), 5, "a:\n  x: 5  # c\n"),
        ("a: {x: 1, y: 2}\n", ("a", "x"), "z", "a: {x: z, y: 2}\n"),
        ("a: {x: 1}\n", ("a", "y"), ["1e3", "a, b", "x\ny", ""], 'a: {y: ["1e3", "a, b", "x\\ny", ""], x: 1}\n'),
        ("a: 1\n", ("b",), "off: 010", "a: 1\n\nb: 'off: 010'\n"),
        ("a:\n- x: 1\n", ("b",), {"c": [1]}, "a:\n- x: 1\n\nb:\n  c:\n    - 1\n"),
    ],
)  # fmt: skip
def test_put(before: str, path: tuple[str, ...], value: object, after: str) -> None:
    assert put(before, path, value) == after


def test_a_path_that_is_absolute_stays_so(gallery: Path) -> None:
    (gallery / "_base" / "all.yaml").write_text(BASE + "model: {path: /models/x.gguf}\n")
    (gallery / "mine.yaml").write_text("extends: _base/all.yaml\nengine: {threads: 1}\n")
    assert "path: /models/x.gguf" in flatten(gallery / "mine.yaml").text


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("a: !append [c, d] # x\n", "a: [1, b, c, d] # x"),
        ("a: !append []\n", "a: [1, b]"),
        ("a: !append  # x\n  # y\n  - c: 2\n", "a: # x\n  - 1\n  - b\n  # y\n  - c: 2"),
        ("a: !append\n- c\nd: 1\n", "a:\n- 1\n- b\n- c\nd: 1"),
    ],
)
def test_put_before(before: str, after: str) -> None:
    assert put_before(before, ("a",), [1, "b"]) == after


def test_a_comment_stands_above_the_key_that_it_is_about() -> None:
    assert put("a: 1\n", ("b", "c"), 2, "why\nso") == "a: 1\n\nb:\n  # why\n  # so\n  c: 2\n"
    assert put("a:\n  x: auto\n", ("a", "x"), 2, "why") == "a:\n  # why\n  x: 2\n"


def test_drop() -> None:
    assert drop("# the file\nextends:\n  - a\n  - b\nb: 1\n", "extends") == "# the file\nb: 1\n"
    assert drop("a: 1\n\n# about\nextends: [x]\n\nb: 1\n", "extends") == "a: 1\n\nb: 1\n"
    assert drop("a: 1\n", "extends") == "a: 1\n"


def test_the_modeline_finds_the_schema(tmp_path: Path) -> None:
    root = shipped.schema_path().parent.parent
    assert (
        with_modeline("a: 1\n", tmp_path)
        == f"# yaml-language-server: $schema={shipped.schema_path()}\na: 1\n"
    )
    inside = with_modeline("# yaml-language-server: $schema=x\na: 1\n", root / "recipes")
    assert inside == "# yaml-language-server: $schema=../schemas/recipe.v1.json\na: 1\n"


def test_a_flat_text_keeps_paths_right(gallery: Path) -> None:
    flat = flatten(gallery / "tiny-7b.yaml")
    assert "facts: facts/tiny.json" in flat.text  # which its base spells ../facts/tiny.json
    assert set(map(str, flat.files)) == {"facts/tiny.json", "facts/tiny-awq.json"}
