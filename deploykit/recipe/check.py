"""Whether a recipe is right, and everything that is wrong with it: its files, its profiles, its values."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from .compose import Layers, read_layers, unknown_profiles
from .cross import conflicts
from .diagnostics import MAX_ERRORS, Diagnostic, RecipeError, Span, diagnostic, shown
from .loader import Document
from .mask import Mask
from .plain import ENVIRONMENT_PREFIX, slug
from .quick import accepts

if TYPE_CHECKING:
    from pydantic import ValidationError

    from .schema import Recipe


@dataclass(frozen=True, slots=True)
class Overrides:
    """What is laid over a recipe's files. `environ` is the process's own environment where it is None."""

    sets: Sequence[str] = ()
    profiles: Sequence[str] = ()
    environ: Mapping[str, str] | None = None
    every_profile: bool = False  # check the profiles that aren't asked for too


@dataclass(frozen=True, slots=True)
class Examined:
    """A recipe without mistakes: what was merged, and its profiles, those that are laid over it and all."""

    main: Document
    merged: Document
    layers: Layers
    profiles: tuple[str, ...]

    def model(self) -> Recipe:
        """The recipe as an object. Raises RecipeError where the models find more than `examine` did."""
        from pydantic import ValidationError

        from .schema import Recipe

        try:
            return Recipe.model_validate(self.merged.data)
        except ValidationError as error:
            _explain(error, self.main, self.merged)
            raise _error(self.main, self.layers, self.merged.problems, [self.merged]) from None


def examine(main: Document, over: Overrides, path: Path | None) -> Examined:
    """Merge a recipe's layers and check all of it. Raises RecipeError with everything that is wrong."""
    layers = Layers()
    if main.data is None and main.problems:
        raise _error(main, layers, main.problems)
    if problem := _shape(main):
        raise _error(main, layers, [*main.problems, problem])
    layers = read_layers(main, path)
    main.problems += [*layers.problems, *unknown_profiles(layers, over.profiles)]
    chosen = tuple(name for name in over.profiles if name in layers.profiles)
    merged = _merged(main, layers, chosen, over)
    all_merged = [merged]
    problems = [*main.problems, *merged.problems]
    for other in layers.profiles if over.every_profile else ():
        if other not in chosen and len(problems) < MAX_ERRORS:
            all_merged.append(_merged(main, layers, (other,), over))
            # Only where it is used does a profile need its variables.
            problems += [p for p in all_merged[-1].problems if p.code != "unset-variable"]
    if problems:
        raise _error(main, layers, list(dict.fromkeys(problems)), all_merged)
    return Examined(main, merged, layers, chosen)


def file_name(path: Path) -> str:
    """`recipes/SmolLM2.deploykit.yaml` -> `smollm2`."""
    return slug(path.name.removesuffix(".yml").removesuffix(".yaml").removesuffix(".deploykit")) or "recipe"


def _merged(main: Document, layers: Layers, profiles: Sequence[str], over: Overrides) -> Document:
    """Everything merged with these profiles, with the problems of merging and of the values."""
    merged = layers.merged(main, profiles)
    environ = os.environ if over.environ is None else over.environ
    if over.sets or any(name.upper().startswith(ENVIRONMENT_PREFIX) for name in environ):
        from .layers import apply_environment, apply_sets

        apply_environment(merged, environ)
        apply_sets(merged, over.sets)
    lines = (line for layer in layers.files for line in layer.source.lines if "$" in line)
    if "vars" in merged.data or any("${" in line or "$$" in line for line in lines):
        from .variables import resolve

        resolve(merged, environ)
    if not accepts(merged.data):
        from pydantic import ValidationError

        from .schema import Recipe

        try:
            Recipe.model_validate(merged.data)
        except ValidationError as error:
            _explain(error, main, merged)
            return merged
    if any(conflicts(merged.data)):
        _explain(None, main, merged)
    return merged


def _explain(error: ValidationError | None, main: Document, merged: Document) -> None:
    from .explain import explain

    # What the loader refused stands in the data as a harmless value: it's told of once.
    told = {(p.file, p.line, p.col) for p in (*main.problems, *merged.problems) if p.line is not None}
    merged.problems += [p for p in explain(error, merged) if (p.file, p.line, p.col) not in told]


def _shape(document: Document) -> Diagnostic | None:
    """A recipe is a section; anything else gets one error instead of one for each key it lacks."""
    data, source = document.data, document.source
    example = "a recipe starts with `version: 1` and a `model:` section"
    if data is None:
        return diagnostic("empty-recipe", "there is nothing in this recipe", source, help=example)
    if isinstance(data, dict):
        return None
    place = document.places[()]
    if isinstance(data, str) and ":" in data:
        example = "a key is followed by a colon and a space: `version: 1`"
    span = Span(place.value.line, place.value.col, max(1, place.value.length))
    return diagnostic(
        "not-a-recipe", f"a recipe is a section of keys, and this is {shown(data)}", source, span, example
    )


def _error(
    main: Document, layers: Layers, problems: Sequence[Diagnostic], merged: Sequence[Document] = ()
) -> RecipeError:
    """Everything that is wrong in the order of the files and their text, with no credential in a quoted line."""
    mask = Mask([place for document in (main, *layers.files, *merged) for place in document.secrets])
    ranks = {main.source.name: 0, **layers.ranks}
    found: list[Diagnostic] = []
    for p in sorted(problems, key=lambda p: _position(p, ranks)):
        others = tuple(replace(r, snippet=mask.line(r.file, r.line, r.snippet)) for r in p.related)
        line = p.snippet if p.snippet is None else mask.line(p.file, p.line, p.snippet)
        found.append(replace(p, snippet=line, related=others))
    rest = len(found[MAX_ERRORS:]) + sum(document.untold for document in merged)
    if rest:
        more = f"{rest} more error{'s are' if rest > 1 else ' is'} not shown"
        found = [*found[:MAX_ERRORS], diagnostic("too-many-errors", more, main.source)]
    return RecipeError(found)


def _position(problem: Diagnostic, ranks: Mapping[str, int]) -> tuple[bool, int, int, int]:
    from_set = problem.line is None and problem.snippet is not None
    return (
        from_set,
        ranks.get(problem.file, len(ranks)),
        problem.line or 0,
        0 if from_set else problem.col or 0,
    )
