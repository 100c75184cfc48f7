"""Recipes against this machine: from files on the disk, else from what recipes say their models are. No connection."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from deploykit.deployment.facts import known_facts
from deploykit.deployment.native import native_cuda_problem, native_problem
from deploykit.errors import DeploykitError
from deploykit.plan.errors import PlanError
from deploykit.plan.outline import Inputs, Outline, TooSmallError, outline
from deploykit.plan.stated import check_machine, refuse_unsupported
from deploykit.plan.text import format_bytes, format_count

if TYPE_CHECKING:
    from deploykit.checkpoint.facts import Facts
    from deploykit.hardware.machine import Machine
    from deploykit.plan.choose import NativeProblems
    from deploykit.recipe import LoadedRecipe
    from deploykit.recipe.schema import Recipe

# yes: it runs here. no: it needs more, or other settings. unsupported: no engine of this version runs the model.
# unknown: nothing tells what the model is. invalid: the recipe or the model can't be read.
Fits = Literal["yes", "no", "unsupported", "unknown", "invalid"]
_UNKNOWN = "its model is not on the disk, and nothing describes it"


class Variant(msgspec.Struct, frozen=True, kw_only=True):
    """A profile of a recipe on this machine."""

    name: str
    fits: Fits
    engine: str | None = None
    session_len: int | None = None
    sessions: int | None = None
    why: str = ""


class RecipeRow(msgspec.Struct, frozen=True, kw_only=True):
    """One recipe on this machine."""

    recipe: str  # name, or the file where it can't be read
    path: str | None
    fits: Fits
    engine: str | None = None
    device: str | None = None
    dtype: str | None = None
    session_len: int | None = None  # the context: tokens of a session
    sessions: int | None = None  # full ones that the KV memory holds at once
    facts: str | None = None  # files | hub | described: what is known of the model, and from where
    variants: tuple[Variant, ...] = ()
    why: str = ""
    missing_bytes: int | None = None  # to fetch before it runs; None where it isn't known

    @property
    def runs(self) -> bool:
        """As it is, or as one of its variants."""
        return self.fits == "yes" or any(variant.fits == "yes" for variant in self.variants)


@dataclass(frozen=True)
class Bench:
    """What recipes are judged with, found out once for all of them."""

    machine: Machine
    cache: Path
    native: NativeProblems


def bench_of(machine: Machine, cache: Path) -> Bench:
    from deploykit.plan.choose import NativeProblems

    return Bench(
        machine,
        cache,
        NativeProblems(_or_why(native_problem, machine), _or_why(native_cuda_problem, machine)),
    )


def _or_why(ask: Callable[[Machine], str | None], machine: Machine) -> str | None:
    """The problem with the native library; a prebuilt one that can't be used is one."""
    try:
        return ask(machine)
    except DeploykitError as error:
        return error.what


def judge(loaded: LoadedRecipe, bench: Bench, *, variants: bool = True) -> RecipeRow:
    """Whether the recipe runs here, and how far; and each of its profiles, unless some were chosen."""
    path = str(loaded.path) if loaded.path else None
    facts: Facts | None = None
    known: dict[tuple[Any, ...], Any] = {}
    try:
        refuse_unsupported(loaded.recipe)
        check_machine(loaded.recipe, bench.machine)  # before its model is looked at, which takes longer
        facts = known_facts(loaded, bench.cache)
        if facts is None:
            return RecipeRow(recipe=loaded.name, path=path, fits="unknown", why=_UNKNOWN)
        found = sized(Inputs(loaded.recipe, facts, bench.machine, bench.native, known=known))
    except PlanError as error:
        row = RecipeRow(
            recipe=loaded.name, path=path, fits=refusal(error, loaded.recipe), why=words_of(error)
        )
    except Exception as error:
        return RecipeRow(recipe=loaded.name, path=path, fits="invalid", why=_reason(error))
    else:
        tokens = found.sizes.num_blocks * found.wish.block_len
        row = RecipeRow(
            recipe=loaded.name,
            path=path,
            fits="yes",
            engine=found.choice.engine,
            device=found.choice.device.kind,
            dtype=found.choice.dtype,
            session_len=found.sizes.session_len,
            sessions=found.sessions,
            why=f"{found.choice.dtype}, {format_count(tokens)} tokens of KV memory",
        )
    if facts is not None:
        missing = 0 if facts.origin == "files" else facts.stored_bytes
        row = msgspec.structs.replace(row, facts=facts.origin, missing_bytes=missing)
    if variants and loaded.path is not None and not loaded.profiles:
        row = msgspec.structs.replace(row, variants=tuple(_variants(loaded, facts, known, bench)))
    return row


def sized(inputs: Inputs) -> Outline:
    """What a plan decides, without its texts and without the search for what would help. Raises PlanError."""
    try:
        return outline(inputs)
    except TooSmallError as error:
        tried = error.outline
        memory, limit = tried.sizes.memory, tried.place.limit
        where = "memory" if tried.place.kind == "cpu" else "GPU memory"
        parts = ", ".join(f"{item.name} {format_bytes(item.bytes)}" for item in memory if item.bytes)
        total = format_bytes(sum(item.bytes for item in memory))
        raise PlanError(
            f"needs {total} of {where}, {format_bytes(limit)} may be used",
            why=parts,
            memory=memory,
            memory_limit=limit,
        ) from None


def _variants(
    loaded: LoadedRecipe, facts: Facts | None, known: dict[tuple[Any, ...], Any], bench: Bench
) -> Iterable[Variant]:
    """Profiles, each laid over the recipe by itself. `known` is what was found out about the model with `facts`."""
    from deploykit.recipe import load_recipe

    lifting = _lifting(loaded) if loaded.recipe.unsupported is not None else None
    for name in loaded.all_profiles:
        if lifting is not None and name not in lifting:
            yield Variant(name=name, fits="unsupported", why=(loaded.recipe.unsupported or "").strip())
            continue
        try:
            other = load_recipe(loaded.path or "", profiles=[name])
        except Exception as error:
            yield Variant(name=name, fits="invalid", why=_reason(error))
            continue
        try:
            refuse_unsupported(other.recipe)
            check_machine(other.recipe, bench.machine)
            # Where the engine's settings alone are others, the model and what engines need for it are the same.
            same = other.recipe.model_copy(update={"engine": loaded.recipe.engine}) == loaded.recipe
            its = facts if same else known_facts(other, bench.cache)
            if its is None:
                yield Variant(name=name, fits="unknown", why=_UNKNOWN)
                continue
            shared = known if same else {}
            found = sized(Inputs(other.recipe, its, bench.machine, bench.native, known=shared))
        except PlanError as error:
            yield Variant(name=name, fits=refusal(error, other.recipe), why=words_of(error))
        except Exception as error:
            yield Variant(name=name, fits="invalid", why=_reason(error))
        else:
            sizes, engine = found.sizes, found.choice.engine
            yield Variant(
                name=name, fits="yes", engine=engine, session_len=sizes.session_len, sessions=found.sessions
            )


def _lifting(loaded: LoadedRecipe) -> set[str]:
    """The profiles that say something of `unsupported`: without it they are refused as the recipe is, unread."""
    from deploykit.recipe.compose import read_layers
    from deploykit.recipe.files import read_file

    path = Path(loaded.path or "")
    layers = read_layers(read_file(path), path)
    return {
        name
        for name, documents in layers.profiles.items()
        if any(isinstance(document.data, dict) and "unsupported" in document.data for document in documents)
    }


def refusal(error: PlanError, recipe: Recipe) -> Fits:
    """Whether more would help, or no engine runs the model."""
    return "unsupported" if recipe.unsupported is not None or error.outlook is not None else "no"


def words_of(error: PlanError) -> str:
    if error.why and error.where is not None and error.where.startswith(("unsupported", "requires.memory")):
        return error.why  # which says it all
    return f"{error.what}: {error.why}" if error.why else error.what


def judge_file(path: Path, bench: Bench) -> RecipeRow:
    """`judge` for a file that may be no valid recipe."""
    from deploykit.recipe import load_recipe

    try:
        loaded = load_recipe(path)
    except Exception as error:
        return RecipeRow(recipe=path.stem, path=str(path), fits="invalid", why=_reason(error))
    return judge(loaded, bench)


def _reason(error: Exception) -> str:
    """One recipe must not take the other rows with it, whatever is wrong with it."""
    if not isinstance(error, DeploykitError):
        return f"{type(error).__name__}: {error}"
    return f"{error.what}: {error.why}" if error.why else error.what


def shipped_recipes() -> list[Path]:
    """The recipes that come with deploykit, by name, and those in the working folder's `recipes/`."""
    from deploykit import shipped

    try:
        files = [shipped.path(name) for name in shipped.names()]
    except DeploykitError:  # an installation that lost them
        files = []
    files += sorted((Path.cwd() / "recipes").glob("*.y*ml"))
    return list({file.resolve(): file for file in reversed(files)}.values())[::-1]


@dataclass
class Table:
    """Rows that are judged in a thread of their own: one recipe on a disk that hangs leaves the others."""

    files: Sequence[Path]
    bench: Callable[[], Bench]
    rows: list[RecipeRow] = field(default_factory=list)

    def judge_all(self, limit_s: float) -> list[RecipeRow]:
        """All rows, in the order of the files; those that were not judged in time say so."""
        thread = threading.Thread(target=self._work, daemon=True, name="doctor-recipes")
        thread.start()
        thread.join(limit_s)
        done = list(self.rows)
        late = f"not judged: the recipes before took longer than {limit_s:g} s"
        return done + [
            RecipeRow(recipe=file.stem, path=str(file), fits="unknown", why=late)
            for file in self.files[len(done) :]
        ]

    def _work(self) -> None:
        bench = self.bench()
        for file in self.files:
            self.rows.append(judge_file(file, bench))
