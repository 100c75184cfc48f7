"""The door to what a model is before it is fetched: refs in, the headers of its files out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from deploykit.errors import DeploykitError
from deploykit.hub import heads, wheel
from deploykit.hub.fetch import all_failed, as_ours, check_online, ignore, lines_of, source_of
from deploykit.hub.heads import Heads, Reader
from deploykit.hub.pypi import PypiSource
from deploykit.hub.repo import RepoSource
from deploykit.hub.types import NoHeaders, Ref, Report, Source


def kept(refs: Sequence[Ref], *, cache: Path) -> Heads | None:
    """The headers that an earlier look has kept, of the first of `refs` that has any. No connection is made."""
    for ref in refs:
        source = source_of(ref, cache)
        found = None
        if isinstance(source, RepoSource):
            found = heads.kept(source)
        elif isinstance(source, PypiSource):
            found = wheel.kept(source)
        if found is not None:
            return found
    return None


def asked(refs: Sequence[Ref], *, cache: Path) -> float | None:
    """When the hub was asked for the branch that `kept` answers of, in Unix seconds; None where that is no branch."""
    for ref in refs:
        source = source_of(ref, cache)
        if isinstance(source, RepoSource) and heads.kept(source) is not None:
            return heads.asked(source)
        if isinstance(source, PypiSource) and wheel.kept(source) is not None:
            return None
    return None


def look(
    refs: Sequence[Ref],
    *,
    cache: Path,
    reader: Reader,
    offline: bool = False,
    fresh: bool = False,
    report: Report | None = None,
) -> tuple[Heads, tuple[str, ...]]:
    """The headers of the model, kept ones first, and a line for each source that was asked before and failed.

    `fresh` asks the hub where a branch stands now. Raises what `fetch` raises, and NoHeaders where a source can be
    fetched from, perhaps, and not looked into.
    """
    if not fresh and (found := kept(refs, cache=cache)) is not None:
        return found, ()
    check_online(refs, offline)
    failures: list[tuple[Ref, DeploykitError]] = []
    for ref in refs:
        try:
            return _read(source_of(ref, cache), reader, report or ignore), lines_of(failures)
        except (DeploykitError, OSError) as e:
            failures.append((ref, as_ours(e, cache)))
    error = all_failed(failures)
    if any(isinstance(e, NoHeaders) for _, e in failures):
        raise NoHeaders(
            error.what, where=error.where, why=error.why, fix=error.fix, exit_code=error.exit_code
        )
    raise error


def _read(source: Source, reader: Reader, report: Report) -> Heads:
    if isinstance(source, RepoSource):
        return heads.read_heads(source, reader, report)
    if isinstance(source, PypiSource):
        return wheel.kept(source) or wheel.read_heads(
            source, reader, report
        )  # a version's wheel stays what it is
    source.resolve()  # a path that is there needs no look; this one isn't, which is what it raises
    raise DeploykitError("the path has appeared meanwhile", fix="run it again")
