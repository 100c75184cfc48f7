"""What a recipe's model is: from its files on the disk, else from their headers on the hub, else as it is described."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from deploykit.deployment.sources import fetch_weights, models_folder, refs_for
from deploykit.deployment.stage import Report, Running, ignore, stage
from deploykit.errors import DeploykitError

if TYPE_CHECKING:
    from deploykit.checkpoint.facts import Facts
    from deploykit.hub.heads import Heads
    from deploykit.prompt.templates.resolve import Resolved
    from deploykit.recipe import LoadedRecipe


BRANCH_S = 3600.0  # a branch stands where it stood so long ago


@dataclass(frozen=True)
class Found:
    """A model's facts and where they are from (`facts.origin`: files, hub or described).

    `facts.path` is where its files lie, or will lie once they are fetched. `view` is what can be looked into: the
    files, or for as long as the context lasts a folder with their headers; None where there is a description alone.
    """

    facts: Facts
    source: str  # for people
    view: Facts | None
    failures: tuple[str, ...] = ()  # one line for each source that was asked before and failed

    @property
    def has_tokenizer(self) -> bool:
        """A GGUF file's header holds its tokenizer; a folder's lies in files of its own."""
        return self.view is not None and (self.facts.origin == "files" or self.facts.format == "gguf")


def find_on_disk(loaded: LoadedRecipe, cache: Path) -> Found | None:
    """The recipe's model and what it is, or None while it would have to be fetched."""
    from deploykit.checkpoint import read_facts
    from deploykit.hub import locate

    fetched = locate(refs_for(loaded), cache=models_folder(loaded, cache))
    if fetched is None:
        return None
    facts = read_facts(fetched.path, loaded.recipe.model.format)
    return Found(facts, f"its files on this disk ({fetched.source})", facts)


def fetch_to_disk(loaded: LoadedRecipe, cache: Path, report: Report) -> Found:
    """The same, downloading what is missing; progress goes to `report` as the stage "weights"."""
    from deploykit.checkpoint import read_facts

    fetched = fetch_weights(loaded, cache=cache, report=report)
    facts = read_facts(fetched.path, loaded.recipe.model.format)
    return Found(facts, f"its files on this disk ({fetched.source})", facts, fetched.failures)


@contextlib.contextmanager
def find_facts(
    loaded: LoadedRecipe, cache: Path, *, offline: bool = False, report: Report = ignore
) -> Iterator[Found]:
    """Facts without a download: files on the disk, else headers, else the recipe's `model.facts`.

    Headers that were read before need no connection, those of a branch for BRANCH_S seconds; others are asked for
    unless `offline`. Raises what the hub raises where nothing of the three is there.
    """
    from deploykit.hub.look import kept

    if (found := find_on_disk(loaded, cache)) is not None:
        yield found
        return
    failures: tuple[str, ...] = ()
    heads = kept(refs_for(loaded), cache=models_folder(loaded, cache))
    if heads is None:
        try:
            # No stage is shown that is known to come to nothing.
            heads, failures = read_heads(loaded, cache, offline=offline, report=ignore if offline else report)
        except DeploykitError as error:
            found = _described(loaded, f"{error.what}: {error.why}" if error.why else error.what)
            if found is None:
                raise
            yield found
            return
    elif not offline and (age := _branch_age(loaded, cache)) is not None and age > BRANCH_S:
        heads, failures = _heads_of_today(loaded, cache, heads, age, report)
    with from_heads(loaded, heads, cache, failures) as found:
        yield found


def _branch_age(loaded: LoadedRecipe, cache: Path) -> float | None:
    """Seconds since the hub was asked for the branch whose headers are kept; None if it may not be asked."""
    from deploykit.hub.look import asked
    from deploykit.hub.switches import offline_switch

    if offline_switch() is not None:
        return None
    since = asked(refs_for(loaded), cache=models_folder(loaded, cache))
    return None if since is None else time.time() - since


def _heads_of_today(
    loaded: LoadedRecipe, cache: Path, known: Heads, age: float, report: Report
) -> tuple[Heads, tuple[str, ...]]:
    """The headers of where the branch stands now, which `up` would fetch; the known ones where no hub answers."""
    with stage("headers", report) as running:
        try:
            heads, failures = _look(loaded, cache, running, offline=False, fresh=True)
        except DeploykitError as error:
            why = f"{error.what}: {error.why}" if error.why else error.what
            heads = known
            hours = round(age / 3600)
            ago = f"{hours} hour{'s' * (hours != 1)}" if hours < 48 else f"{hours // 24} days"
            failures = (f"{why}; {known.source} is taken as it stood {ago} ago",)
        running.detail = "; ".join((describe_heads(heads), *failures))
    return heads, failures


def known_facts(loaded: LoadedRecipe, cache: Path) -> Facts | None:
    """Facts without a connection and without a look into files that aren't there: None where nothing is known."""
    from deploykit.hub.look import kept

    if (found := find_on_disk(loaded, cache)) is not None:
        return found.facts
    if (heads := kept(refs_for(loaded), cache=models_folder(loaded, cache))) is not None:
        with from_heads(loaded, heads, cache) as found:
            return found.facts
    found = _described(loaded, "")
    return None if found is None else found.facts


def read_heads(
    loaded: LoadedRecipe, cache: Path, *, offline: bool = False, report: Report = ignore
) -> tuple[Heads, tuple[str, ...]]:
    """The headers of the model's files, as the stage "headers"; and why sources before failed."""
    with stage("headers", report) as running:
        heads, failures = _look(loaded, cache, running, offline=offline, fresh=False)
        running.detail = "; ".join((describe_heads(heads), *failures))
    return heads, failures


def _look(
    loaded: LoadedRecipe, cache: Path, running: Running, *, offline: bool, fresh: bool
) -> tuple[Heads, tuple[str, ...]]:
    from deploykit.checkpoint import heads as reader
    from deploykit.deployment.sources import ProgressText
    from deploykit.hub.look import look

    text = ProgressText()
    return look(
        refs_for(loaded),
        cache=models_folder(loaded, cache),
        reader=reader,
        offline=offline,
        fresh=fresh,
        report=lambda progress: running.progress(text.of(progress)),
    )


@contextlib.contextmanager
def ahead_of_download(
    loaded: LoadedRecipe, cache: Path, *, offline: bool, report: Report
) -> Iterator[tuple[Found | None, Running]]:
    """What the model is before it is fetched, as the stage "headers"; None where it is on the disk, or can't be told.

    The hub is asked where a branch stands now, as the fetch will ask, and raises what the fetch would. A source that
    can't be looked into is no error: the plan is made from its files then.
    """
    from deploykit.hub import locate
    from deploykit.hub.switches import offline_switch
    from deploykit.hub.types import NoHeaders

    here = locate(refs_for(loaded), cache=models_folder(loaded, cache)) is not None
    if here or offline or offline_switch() is not None:
        yield None, Running("headers", ignore)
        return
    with stage("headers", report) as running, contextlib.ExitStack() as stack:
        found = None
        try:
            heads, _ = _look(loaded, cache, running, offline=False, fresh=True)
            found = stack.enter_context(from_heads(loaded, heads, cache))
        except NoHeaders as error:
            why = f"{error.what} ({error.why})" if error.why else error.what
            running.detail = f"the plan follows the download: {why}"
        yield found, running


def template_of(loaded: LoadedRecipe, found: Found, cache: Path) -> Resolved:
    """The chat template, as far as it is known without the files. Raises what `choose_template` raises."""
    from deploykit.checkpoint.tokenizer import ensure_tokenizer
    from deploykit.deployment.templates import choose_template

    facts = found.view or found.facts

    def tokenizer_json() -> Path:
        return ensure_tokenizer(facts, cache).tokenizer_json

    # Where it is not here, no built-in can be held against its vocabulary.
    return choose_template(loaded, facts, tokenizer_json if found.has_tokenizer else None)


@contextlib.contextmanager
def from_heads(
    loaded: LoadedRecipe, heads: Heads, cache: Path, failures: tuple[str, ...] = ()
) -> Iterator[Found]:
    """The facts that the whole files would give, out of their headers."""
    from deploykit.checkpoint import read_facts
    from deploykit.hub.heads import view

    cache = models_folder(loaded, cache)
    with view(heads, cache) as path:
        looked = read_facts(path, loaded.recipe.model.format)
        facts = msgspec.structs.replace(looked, path=str(cache / heads.target), origin="hub")
        yield Found(facts, f"headers of {describe_heads(heads)}", looked, failures)


def describe_heads(heads: Heads) -> str:
    named = "commit" if len(heads.revision) == 40 else "sha256"
    return f"{heads.source}, {named} {heads.revision[:12]}"


def _described(loaded: LoadedRecipe, why: str) -> Found | None:
    from deploykit.checkpoint.described import read_described

    model = loaded.recipe.model
    if model.facts is None:
        return None
    failures = (why,) if why else ()
    facts = read_described(model.facts, model.format)
    return Found(facts, f"the recipe's description, {model.facts}", None, failures)
