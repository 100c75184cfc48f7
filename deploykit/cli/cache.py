"""`deploykit cache`: what models take on the disk, whether they are still whole, and how to be rid of them."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deploykit.cli._options import Json
from deploykit.errors import EXIT_FAILURE, EXIT_OK, ConfigError, DeploykitError

if TYPE_CHECKING:
    from deploykit.hub.cache import Entry
    from deploykit.hub.verify import Verdict


class Action(Enum):
    """What to do with the cache."""

    ls = "ls"
    rm = "rm"
    verify = "verify"
    prune = "prune"


def cache(
    action: Annotated[
        Action,
        typer.Argument(
            metavar="ACTION",
            help="ls: sizes, and what uses what. rm NAME…: remove models. verify [NAME…]: read every file again and "
            "compare it with its sha256. prune: remove what interrupted fetches and old conversions left.",
            show_default=False,
        ),
    ],
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME",
            help="owner/name, owner/name@COMMIT, package==version, or a path; as `ls` shows it.",
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("-y", "--yes", help="With rm: don't ask.")] = False,
    older_than: Annotated[
        str | None,
        typer.Option(
            help="With prune: spare what was used since, such as 12h or 30m. Default: 24h.",
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With rm and prune: show what would go, remove nothing.")
    ] = False,
    dir_: Annotated[
        Path | None,
        typer.Option(
            "--dir", help="Another folder than the cache: a recipe's model.download_dir.", show_default=False
        ),
    ] = None,
    json_: Json = False,
) -> int:
    """Show, check and clean the cache of models.

    What a process uses is never removed. Exit code 1: a file is damaged, or something couldn't be removed.
    """
    from deploykit.fsutil import cache_dir

    _check_options(action, names, yes, older_than, dry_run)
    folder = cache_dir() if dir_ is None else _folder(dir_)
    match action:
        case Action.ls:
            return _ls(folder, names or [], json_)
        case Action.rm:
            return _rm(folder, names or [], yes, dry_run, json_)
        case Action.verify:
            return _verify(folder, names or [], json_)
        case Action.prune:
            return _prune(folder, _seconds(older_than), dry_run, json_)


def _check_options(
    action: Action, names: list[str] | None, yes: bool, older_than: str | None, dry_run: bool
) -> None:
    """No option is taken in silence."""
    if action is Action.prune and names:
        raise ConfigError(
            "`cache prune` takes no names", fix=f"to remove a model: deploykit cache rm {names[0]}"
        )
    if action is Action.rm and not names:
        raise ConfigError("`cache rm` needs a name", fix="`deploykit cache ls` lists them")
    if yes and action is not Action.rm:
        raise ConfigError("--yes goes with `cache rm`", fix="leave it out")
    if older_than is not None and action is not Action.prune:
        raise ConfigError("--older-than goes with `cache prune`", fix="leave it out")
    if dry_run and action not in (Action.rm, Action.prune):
        raise ConfigError("--dry-run goes with `cache rm` and `cache prune`", fix="leave it out")


def _folder(path: Path) -> Path:
    folder = path.expanduser().absolute()
    if not folder.is_dir():
        raise ConfigError(
            f"there is no folder {path}", fix="name the model.download_dir of a recipe, or leave --dir out"
        )
    return folder


def _seconds(text: str | None) -> float:
    from deploykit.recipe.schema import parse_duration

    try:
        return float(parse_duration(text or "24h"))
    except ValueError as e:
        raise ConfigError(f"--older-than {e}", fix="write it as 12h, 30m or 0s") from e


def _pick(found: list[Entry], names: Sequence[str]) -> list[Entry]:
    """The entries that `names` name, each once; a name of nothing is an error."""
    picked: list[Entry] = []
    for name in names:
        matching = [e for e in found if e.matches(name)]
        if not matching:
            from difflib import get_close_matches

            close = get_close_matches(name, [known for e in found for known in (e.name, e.id)], n=1)
            fix = f"did you mean {close[0]}?" if close else "`deploykit cache ls` lists what is there"
            raise ConfigError(f"the cache holds no {name}", fix=fix)
        picked += [e for e in matching if e not in picked]
    return picked


# ---------------------------------------------------------------- ls


def _ls(folder: Path, names: list[str], json_: bool) -> int:
    from deploykit.cli._cache_use import other_folders, users_of
    from deploykit.hub.cache import entries

    found = entries(folder)
    if names:
        found = _pick(found, names)
    used = users_of(found, folder)
    others = {} if names else other_folders(folder)
    if json_:
        rows = [{**_plain(e), "used_by": used[e.path]} for e in found]
        total = sum(e.bytes for e in found)
        _print_json({"cache": str(folder), "bytes": total, "entries": rows, "other": others})
        return EXIT_OK
    from deploykit.cli._tables import Printer
    from deploykit.plan.text import format_bytes

    out = Printer()
    if not found:
        out.line(f"the cache is empty: {folder}")
    table = [(e.id, e.kind, format_bytes(e.bytes), _note(e, used[e.path])) for e in found]
    if table:
        out.table([("NAME", "KIND", "SIZE", "USED BY"), *table], ("", "", "", ""), right=(2,))
        out.line("")
        out.line(f"{format_bytes(sum(e.bytes for e in found))} in {folder}")
    for name, size in others.items():
        out.line(f"{format_bytes(size)} more in {name}/")
    return EXIT_OK


def _note(entry: Entry, users: list[str]) -> str:
    parts = list(users)
    if entry.branches:
        parts.append(f"branch {', '.join(entry.branches)}")
    if entry.kind == "partial":
        parts.append("an interrupted fetch; `pull` goes on with it")
    return "; ".join(parts)


def _plain(entry: Entry) -> dict[str, Any]:
    import msgspec

    data: dict[str, Any] = msgspec.to_builtins(entry)
    return {"id": entry.id, **data}


# ---------------------------------------------------------------- rm and prune


def _rm(folder: Path, names: list[str], yes: bool, dry_run: bool, json_: bool) -> int:
    from deploykit.hub.cache import derived, entries

    found = entries(folder)
    picked = _pick(found, names)
    made: dict[str, str] = {}  # what was made of a model goes with it, and stays with it
    for entry in list(picked):
        for converted in derived(entry, found, folder):
            made[converted.path] = entry.path
            if converted not in picked:
                picked.append(converted)
    picked.sort(key=lambda e: e.path in made)
    if not dry_run and not yes:
        _ask(picked)
    return _remove([(e, "") for e in picked], folder, dry_run, json_, made)


def _prune(folder: Path, older_than: float, dry_run: bool, json_: bool) -> int:
    from deploykit.hub.cache import leftovers, prune_records

    gone = leftovers(folder, older_than=older_than)
    code = _remove(gone, folder, dry_run, json_)
    if not dry_run:
        prune_records(folder)
    return code


def _ask(picked: list[Entry]) -> None:
    from deploykit.plan.text import format_bytes

    if not sys.stdin.isatty():
        raise ConfigError("nobody is there to be asked", why="this is no terminal", fix="add --yes")
    for entry in picked:
        print(f"{entry.id}  {format_bytes(entry.bytes)}", file=sys.stderr)
    typer.confirm(f"Remove {format_bytes(sum(e.bytes for e in picked))}?", abort=True, err=True)


def _remove(
    gone: list[tuple[Entry, str]],
    folder: Path,
    dry_run: bool,
    json_: bool,
    made: Mapping[str, str] | None = None,
) -> int:
    """Remove what can be removed; what is in use is said and kept, and with it what was `made` of it."""
    from deploykit.cli._output import print_error
    from deploykit.hub.cache import remove
    from deploykit.plan.text import format_bytes

    done: list[tuple[Entry, str]] = []
    kept: list[tuple[Entry, DeploykitError]] = []
    for entry, why in gone:
        try:
            if (made or {}).get(entry.path) in {e.path for e, _ in kept}:
                continue
            if not dry_run:
                remove(entry, folder)
        except DeploykitError as e:
            kept.append((entry, e))
        else:
            done.append((entry, why))
    freed = sum(e.bytes for e, _ in done)
    if json_:
        removed = [{**_plain(e), "reason": why} for e, why in done]
        held = [{**_plain(e), "reason": f"{error.what}: {error.why}"} for e, error in kept]
        _print_json({"removed": removed, "kept": held, "bytes": freed, "dry_run": dry_run})
    else:
        verb = "would remove" if dry_run else "removed"
        for entry, why in done:
            print(f"{verb} {entry.id}  {format_bytes(entry.bytes)}" + (f"  ({why})" if why else ""))
        print(f"{format_bytes(freed)} {'would be freed' if dry_run else 'freed'}")
        for _, error in kept:
            print_error(error)
    return EXIT_FAILURE if kept else EXIT_OK


# ---------------------------------------------------------------- verify


def _verify(folder: Path, names: list[str], json_: bool) -> int:
    from deploykit.cli._output import stage_display
    from deploykit.deployment.sources import ProgressText
    from deploykit.deployment.stage import stage
    from deploykit.hub.cache import entries
    from deploykit.hub.types import FetchProgress
    from deploykit.hub.verify import verify

    found = entries(folder)
    picked = _pick(found, names) if names else [e for e in found if e.kind not in ("partial", "converted")]
    display = stage_display()
    verdicts: list[Verdict] = []
    with contextlib.closing(display), stage("verify", display.report) as running:
        for entry in picked:
            text = ProgressText()

            def show(p: FetchProgress, text: ProgressText = text) -> None:
                running.progress(text.of(p), p.done / p.total if p.total else None)

            verdicts.append(verify(entry, folder, show))
        running.detail = f"{len(verdicts)} checked"
    damaged = [v for v in verdicts if v.ok is False]
    if json_:
        _print_json({"ok": not damaged, "entries": verdicts})
    else:
        for verdict in verdicts:
            print(f"{verdict.id}: {_words(verdict)}")
        for verdict in damaged:
            print(
                f"to fetch it again: deploykit cache rm '{verdict.id}' && deploykit pull …", file=sys.stderr
            )
    return EXIT_FAILURE if damaged else EXIT_OK


def _words(verdict: Verdict) -> str:
    if verdict.ok is None:
        return "nothing to compare it with (fetched by an older version, or no model)"
    files = "1 file" if verdict.files == 1 else f"{verdict.files} files"
    return f"{files} as they arrived" if verdict.ok else "DAMAGED: " + "; ".join(verdict.problems)


def _print_json(data: dict[str, Any]) -> None:
    import msgspec

    print(msgspec.json.format(msgspec.json.encode(data), indent=2).decode())
