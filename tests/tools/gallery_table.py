"""The table of docs/gallery.md, from the shipped recipes themselves.

python tests/tools/gallery_table.py --write    # into docs/gallery.md
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deploykit import shipped
from deploykit.plan.text import format_bytes
from deploykit.recipe import LoadedRecipe, load_recipe

PAGE = Path(__file__).parents[2] / "docs" / "gallery.md"
START, END = "<!-- gallery -->\n", "<!-- end of gallery -->"


def table() -> str:
    """Two tables: recipes that run, and those that no engine runs yet."""
    run, refused = [], []
    for name in shipped.names():
        loaded = load_recipe(shipped.path(name))
        row = refused if loaded.recipe.unsupported else run
        row.append(_row(name, loaded))
    lines = [
        f"{len(run)} recipes that run:",
        "",
        "| recipe | model | free memory | variants | chat template |",
    ]
    lines += ["| --- | --- | --- | --- | --- |", *run, ""]
    lines += [f"{len(refused)} whose model no engine of this version runs as it is published:", ""]
    lines += ["| recipe | model | why not | runs with |", "| --- | --- | --- | --- |", *refused]
    return "\n".join(lines) + "\n"


def _row(name: str, loaded: LoadedRecipe) -> str:
    recipe = loaded.recipe
    about = f"{_cell(recipe.description)} (`{_model(loaded)}`)"
    if recipe.unsupported:
        runs = [p for p in loaded.all_profiles if not _with(name, p).recipe.unsupported]
        lifted = ", ".join(f"`--profile {profile}`" for profile in runs)
        return f"| `{name}` | {about} | {_cell(recipe.unsupported)} | {lifted} |"
    variants = ", ".join(f"`{profile}`" for profile in loaded.all_profiles)
    need = "" if recipe.requires.memory is None else format_bytes(recipe.requires.memory).replace(".0 ", " ")
    need += ", on a CPU" if recipe.engine.device == "cpu" else ""
    return f"| `{name}` | {about} | {need} | {variants} | {_template(loaded)} |"


def _with(name: str, profile: str) -> LoadedRecipe:
    return load_recipe(shipped.path(name), profiles=[profile])


def _model(loaded: LoadedRecipe) -> str:
    return str(_facts(loaded)["model"])


def _template(loaded: LoadedRecipe) -> str:
    chat = loaded.recipe.chat
    if chat.capability == "completion":
        return "none: completion"
    if chat.template != "auto":
        return f"built-in `{chat.template}`"
    return "its own" if _facts(loaded)["chat_template"] else "by its name"


def _facts(loaded: LoadedRecipe) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(loaded.recipe.model.facts or "").read_text())
    return found


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def pages() -> Iterator[str]:
    """The page before the table and after it."""
    text = PAGE.read_text()
    yield text[: text.index(START) + len(START)]
    yield text[text.index(END) :]


def page() -> str:
    """What the page should be."""
    before, after = pages()
    return f"{before}{table()}{after}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--write", action="store_true", help="write docs/gallery.md; without it: print the table"
    )
    if parser.parse_args().write:
        PAGE.write_text(page())
    else:
        print(table(), end="")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
