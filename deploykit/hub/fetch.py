"""The door: refs in, one model on the disk out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from deploykit.errors import EXIT_FAILURE, DeploykitError
from deploykit.hub.hf import HfSource
from deploykit.hub.path import PathSource
from deploykit.hub.pypi import PypiSource
from deploykit.hub.types import Fetched, FetchProgress, HfRef, PypiRef, Ref, Report, Source


def source_of(ref: Ref, cache: Path) -> Source:
    if isinstance(ref, PypiRef):
        return PypiSource(ref, cache)
    if isinstance(ref, HfRef):
        return HfSource(ref, cache)
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

    A branch such as `main` is resolved once: what it pointed to then is used from then on. When no source answers,
    one DeploykitError lists each with its reason; a single source's error is raised as it is.
    """
    if found := locate(refs, cache=cache):
        return found
    if offline:
        raise DeploykitError(
            "the model isn't on this machine, and offline was asked for",
            why="; ".join(str(ref) for ref in refs),
            fix="run once without offline",
        )
    failures: list[tuple[Ref, DeploykitError]] = []
    for ref in refs:
        try:
            found = source_of(ref, cache).fetch(report or _ignore)
        except DeploykitError as e:
            failures.append((ref, e))
        except OSError as e:
            failures.append((ref, _disk_error(e, cache)))
        else:
            return Fetched(
                path=found.path,
                source=found.source,
                revision=found.revision,
                failures=tuple(f"{r}: {_one_line(e)}" for r, e in failures),
            )
    raise _all_failed(failures)


def _all_failed(failures: list[tuple[Ref, DeploykitError]]) -> DeploykitError:
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


def _disk_error(error: OSError, cache: Path) -> DeploykitError:
    fix = "check the disk, or set DEPLOYKIT_CACHE to another folder"
    return DeploykitError("the cache can't be written", where=str(cache), why=str(error), fix=fix)


def _one_line(error: DeploykitError) -> str:
    return error.what + (f" ({error.why})" if error.why else "")


def _ignore(progress: FetchProgress) -> None:
    """Nobody asked to be told."""
