"""What a recipe's model is, to the byte: found out for a lock, asked for by one, and held against what is there now."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from deploykit.deployment.sources import ProgressText, models_folder, refs_of
from deploykit.deployment.stage import Report, ignore, stage
from deploykit.errors import DeploykitError
from deploykit.hub import FetchProgress, HfRef, ModelScopeRef, PathRef, PypiRef, Ref, locate
from deploykit.hub.fetch import resolve
from deploykit.hub.pins import differences
from deploykit.hub.sums import of_disk, sums_of
from deploykit.hub.types import PinnedFile
from deploykit.recipe import LoadedRecipe
from deploykit.recipe.lock import Lock, LockedFile, model_digest, relative_path


def make_lock(loaded: LoadedRecipe, cache: Path, *, offline: bool = False, report: Report = ignore) -> Lock:
    """The lock of what the first source that answers has now; `offline`: of what is on the disk.

    Raises DeploykitError where no source answers.
    """
    cache = models_folder(loaded, cache)
    with stage("lock", report) as running:
        text = ProgressText()

        def on_progress(progress: FetchProgress) -> None:
            running.progress(text.of(progress))

        refs = refs_of(loaded.recipe.model)
        if offline:
            ref, commit, files = _on_disk(refs, cache)
        else:
            answer = resolve(refs, cache=cache)
            ref, commit = answer.ref, answer.resolved.revision
            files = sums_of(answer, cache, on_progress)
        lock = _lock(loaded, ref, commit, files)
        running.detail = f"{lock}, {len(lock.files)} {'file' if len(lock.files) == 1 else 'files'}"
    return lock


def _on_disk(refs: list[Ref], cache: Path) -> tuple[Ref, str | None, tuple[PinnedFile, ...]]:
    for ref in refs:
        if (found := locate([ref], cache=cache)) is not None:
            return ref, found.revision, of_disk(found, cache)
    raise DeploykitError(
        "the model isn't on this machine",
        why="none of these is there: " + "; ".join(map(str, refs)),
        fix="lock it without --offline",
    )


def _lock(loaded: LoadedRecipe, ref: Ref, commit: str | None, files: tuple[PinnedFile, ...]) -> Lock:
    hub: Literal["hf", "modelscope", "pypi", "path"]
    revision, file = None, None
    match ref:
        case HfRef():
            hub, repo, revision, file = "hf", ref.repo, ref.revision, ref.file
        case ModelScopeRef():
            hub, repo, revision, file = "modelscope", ref.repo, ref.revision, ref.file
        case PypiRef():
            hub, repo, file = "pypi", ref.package, ref.file
        case PathRef():
            hub, repo = "path", relative_path(str(ref.path), loaded)
    return Lock(
        recipe=loaded.name,
        model_sha256=model_digest(loaded),
        hub=hub,
        repo=repo,
        revision=revision,
        commit=commit if revision is not None else None,
        file=file,
        files=tuple(
            LockedFile(f.name, f.size or 0, f.sha256 or "") for f in sorted(files, key=lambda f: f.name)
        ),
    )


def ref_of(lock: Lock, loaded: LoadedRecipe) -> Ref:
    """The one place that a locked model comes from, with the files that it must have."""
    match lock.hub:
        case "hf":
            return HfRef(lock.repo, lock.commit or "", lock.file, pinned=_pins(lock))
        case "modelscope":
            return ModelScopeRef(lock.repo, lock.commit or "", lock.file, pinned=_pins(lock))
        case "pypi":
            return PypiRef(lock.repo, lock.file or "", lock.files[0].sha256)
        case "path":
            return PathRef(_folder_of(loaded) / lock.repo, _pins(lock))


def _pins(lock: Lock) -> tuple[PinnedFile, ...]:
    return tuple(PinnedFile(f.name, f.size, f.sha256) for f in lock.files)


def moved(loaded: LoadedRecipe, lock: Lock, cache: Path) -> list[str]:
    """What the place that the lock names has now in other words than the lock: a line each, none where it stands still.

    A hub is asked where the branch stands; of a path the files are read.
    """
    cache = models_folder(loaded, cache)
    ref = _as_asked(lock, loaded)
    answer = resolve([ref], cache=cache)
    lines = []
    if lock.commit is not None and answer.resolved.revision != lock.commit:
        lines.append(
            f"{lock.revision} is commit {answer.resolved.revision[:12]}, locked is {lock.commit[:12]}"
        )
    files = answer.resolved.files
    if isinstance(ref, PathRef):
        found = locate([ref], cache=cache)
        files = () if found is None else of_disk(found, cache)
    elif isinstance(ref, PypiRef):
        return lines  # version and sha256 are the recipe's own
    return lines + differences(_pins(lock), files)


def _as_asked(lock: Lock, loaded: LoadedRecipe) -> Ref:
    """The place as the recipe names it: at its branch, whatever the files are."""
    match lock.hub:
        case "hf":
            return HfRef(lock.repo, lock.revision or "main", lock.file)
        case "modelscope":
            return ModelScopeRef(lock.repo, lock.revision or "master", lock.file)
        case "pypi":
            return ref_of(lock, loaded)
        case "path":
            return PathRef(_folder_of(loaded) / lock.repo)


def _folder_of(loaded: LoadedRecipe) -> Path:
    return Path.cwd() if loaded.path is None else loaded.path.resolve().parent
