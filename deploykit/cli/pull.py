"""`deploykit pull`: the files of a model, fetched ahead of its first start."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deploykit.cli._options import Json, Profiles, Sets
from deploykit.errors import EXIT_OK, ConfigError, DeploykitError

if TYPE_CHECKING:
    from deploykit.hub import Fetched, Preview


def pull(
    target: Annotated[
        str,
        typer.Argument(
            metavar="TARGET",
            help="A recipe (- for stdin), the name of a shipped one, or a hub id.",
            show_default=False,
        ),
    ],
    set_: Sets = None,
    profiles: Profiles = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the source, the commit and the files; fetch nothing.")
    ] = False,
    allow_bin: Annotated[
        bool,
        typer.Option(
            "--allow-bin",
            help="Fetch .bin and .pth files too, for `deploykit convert`. They are pickles: never served as they are.",
        ),
    ] = False,
    locked: Annotated[
        bool,
        typer.Option("--locked", help="Demand the recipe's lock: that commit, those files, or an error."),
    ] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Make no connection.")] = False,
    json_: Json = False,
) -> int:
    """Fetch a model's files into the cache, or show what would be fetched.

    An interrupted pull goes on where it was left. Exit code 1: no source answered. 3: too little disk space.
    """
    from deploykit.deployment.sources import models_folder, refs_for
    from deploykit.deployment.target import open_target, refuse_shipped
    from deploykit.fsutil import cache_dir

    if locked:
        refuse_shipped(target)
    loaded = open_target(target, sets=set_ or (), profiles=profiles or ())
    if locked:
        if allow_bin:
            why = "a lock is of what is served"
            raise ConfigError("--locked and --allow-bin exclude each other", why=why, fix="leave one out")
        from deploykit.recipe.lock import with_lock

        loaded = with_lock(loaded)
    cache = models_folder(loaded, cache_dir())
    if dry_run:
        from deploykit.hub import preview

        refs = refs_for(loaded, allow_bin=allow_bin)
        return _show(preview(refs, cache=cache, offline=offline), cache, json_)
    from deploykit.cli._output import stage_display
    from deploykit.deployment.sources import fetch_weights

    display = stage_display()
    with contextlib.closing(display):
        fetched = fetch_weights(
            loaded, cache=cache, offline=offline, report=display.report, allow_bin=allow_bin
        )
    _report(fetched, json_)
    if allow_bin and not json_ and _holds_pickles(fetched):
        print(f"next      deploykit convert {fetched.path} ./{loaded.name}")
    return EXIT_OK


def _holds_pickles(fetched: Fetched) -> bool:
    """Whether there is something to convert: a repository may hold safetensors alone."""
    path = Path(fetched.path)
    return path.is_dir() and any(p.suffix in (".bin", ".pth", ".pt") for p in path.iterdir())


def _report(fetched: Fetched, json_: bool) -> None:
    from deploykit.hub.staging import folder_bytes

    path = Path(fetched.path)
    size = folder_bytes(path) if path.is_dir() else path.stat().st_size
    if json_:
        data = {"source": fetched.source, "revision": fetched.revision, "path": str(path), "bytes": size}
        _print_json({**data, "failures": fetched.failures})
        return
    from deploykit.cli._output import safe
    from deploykit.plan.text import format_bytes

    print(f"source    {fetched.source}")
    if fetched.revision is not None:
        print(f"{'commit' if len(fetched.revision) == 40 else 'sha256':<9} {fetched.revision}")
    print(f"size      {format_bytes(size)}")
    print(f"path      {safe(str(path))}")


def _show(found: Preview, cache: Path, json_: bool) -> int:
    """What `--dry-run` tells; an error where the disk is too small, as the fetch would."""
    from deploykit.cli._output import fault_data
    from deploykit.hub.disk import free_bytes

    files = found.resolved.files if found.resolved is not None else ()
    total = found.resolved.size if found.resolved is not None else 0
    missing = None if total is None else max(0, total - found.present)
    short = _short_of_space(found, cache, missing)
    if json_:
        _print_json(
            {
                "source": found.source,
                "revision": found.resolved.revision
                if found.resolved
                else found.found and found.found.revision,
                "path": str(found.found.path) if found.found else None,
                "files": files,
                "bytes": total,
                "present": found.present,
                "missing": missing,
                "transfer": found.transfer if found.transfer is not None else missing,
                "free": free_bytes(cache),
                "failures": found.failures,
                "error": None if short is None else fault_data(short),
            }
        )
        return EXIT_OK if short is None else short.exit_code
    _print_preview(found, missing, free_bytes(cache))
    if short is not None:
        raise short
    return EXIT_OK


def _short_of_space(found: Preview, cache: Path, missing: int | None) -> DeploykitError | None:
    from deploykit.hub.disk import require_space

    try:
        if missing:
            require_space(cache, missing + (found.transfer or 0), what=found.source)
    except DeploykitError as error:
        return error
    return None


def _print_preview(found: Preview, missing: int | None, free: int) -> None:
    from deploykit.cli._output import safe
    from deploykit.cli._tables import Printer
    from deploykit.plan.text import format_bytes

    out = Printer()
    for failure in found.failures:
        out.line(f"failed    {failure}")
    out.line(f"source    {found.source}")
    if found.found is not None:
        print(f"path      {safe(str(found.found.path))}")  # whole, however narrow the terminal is
        out.line(f"nothing to fetch: it is on the disk; {format_bytes(free)} are free")
        return
    resolved = found.resolved
    if resolved is None:
        return
    out.line(f"{'commit' if len(resolved.revision) == 40 else 'sha256':<9} {resolved.revision}")
    out.heading("Files")
    rows = [
        (f.name, format_bytes(f.size) if f.size is not None else "?", (f.sha256 or f.git_sha1 or "")[:12])
        for f in resolved.files
    ]
    out.table(rows, ("file", "size", "sum"), right=(1,))
    out.line("")
    if missing is None:
        out.line(f"its size is known when the download starts; {format_bytes(free)} are free")
    elif found.transfer is not None:
        packed = (
            f"{format_bytes(missing)} in a wheel of {format_bytes(found.transfer)}, which is fetched whole"
        )
        out.line(f"{packed}; {format_bytes(free)} are free")
    else:
        kept = f", {format_bytes(found.present)} are there from an earlier try" if found.present else ""
        out.line(f"{format_bytes(missing)} to fetch{kept}; {format_bytes(free)} are free")


def _print_json(data: dict[str, Any]) -> None:
    import msgspec

    print(msgspec.json.format(msgspec.json.encode(data), indent=2).decode())
