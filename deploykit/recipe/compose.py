"""A recipe of several layers: what it extends, itself, and its profiles, merged in that order.

`extends`, `profiles` and the `x-` keys are taken out here; `vars` stays in the merged document until its references
are resolved.
"""

from __future__ import annotations

import difflib
import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from .diagnostics import Diagnostic, KeyPath, Source, Span, diagnostic, dotted, printable, shown
from .files import read_file, similar_name
from .loader import MAX_NODES, RESET, Document
from .merge import overlay, part

MAX_DEPTH = 8  # files that extend one another
MAX_FILES = 32  # of one recipe
MAX_PROFILES = 32

_PROFILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_NOT_IN_PROFILES = ("extends", "profiles")


@dataclass(slots=True)
class Layers:
    """The layers of a recipe. `whole` is False where a file that it extends could not be read."""

    files: list[Document] = field(default_factory=list)  # what is extended comes before what extends it
    profiles: dict[str, list[Document]] = field(default_factory=dict)
    problems: list[Diagnostic] = field(default_factory=list)
    whole: bool = True
    ranks: dict[str, int] = field(
        default_factory=dict
    )  # by the name of a file: the order in which they were read

    def merged(self, main: Document, profiles: Iterable[str] = ()) -> Document:
        """A new document of all files with the profiles of these names laid over them; unknown ones are left out."""
        merged = Document(main.source, {}, whole=self.whole)
        for layer in (*self.files, *(layer for name in profiles for layer in self.profiles.get(name, ()))):
            overlay(merged, layer)
        return merged


def read_layers(main: Document, path: Path | None) -> Layers:
    """Read what the recipe extends and split everything into layers. `main` loses the keys that are taken out."""
    layers = Layers()
    if not isinstance(main.data, dict):
        return layers
    reader = _Reader(layers, main.nodes)
    own = () if path is None else (os.path.realpath(path),)
    reader.visit(main, Path.cwd() if path is None else path.parent, own)
    for layer in layers.files:
        _take_profiles(layer, layers)
        for key in [key for key in layer.data if key.startswith("x-")]:
            del layer.data[key]
    return layers


def unknown_profiles(layers: Layers, profiles: Sequence[str]) -> Iterator[Diagnostic]:
    """An error for each profile that was asked for and isn't there."""
    for name in profiles:
        if name in layers.profiles or not layers.whole:
            continue
        close = difflib.get_close_matches(name[:64], layers.profiles, 1)
        listed = ", ".join(layers.profiles)
        help = f"this recipe's profiles are: {listed}" if listed else "this recipe has no profiles"
        if close:
            help = f"did you mean `{close[0]}`? {help}"
        source = Source("--profile", (name,), is_file=False)
        what = f"there is no profile `{printable(name[:64])}`"
        yield diagnostic("unknown-profile", what, source, Span(1, 1, len(name)), help)


class _Reader:
    def __init__(self, layers: Layers, nodes: int) -> None:
        self._layers = layers
        self._nodes = nodes
        self._count = 0

    def visit(self, document: Document, folder: Path, stack: tuple[str, ...]) -> None:
        """Add the files that a document extends, and then itself. `stack` is the way to it, itself included."""
        for at, text in self._entries(document):
            if (child := self._open(document, at, text, folder, stack)) is None:
                self._layers.whole = False
            else:
                path = Path(child.source.name)
                self.visit(child, path.parent, (*stack, os.path.realpath(path)))
        self._layers.files.append(document)

    def _entries(self, document: Document) -> list[tuple[KeyPath, str]]:
        value = document.data.pop("extends", None)
        if value is None and ("extends",) not in document.places:
            return []
        entries = value if isinstance(value, list) else [value]
        found: list[tuple[KeyPath, str]] = []
        for number, text in enumerate(entries):
            at: KeyPath = ("extends", number) if isinstance(value, list) else ("extends",)
            if isinstance(text, str) and text:
                found.append((at, text))
            else:
                what = f"`{dotted(at)}` must be the path of a recipe, got {shown(text)}"
                self._report(
                    document, at, "wrong-type", what, "for example `extends: _base/chat.yaml`, or a list"
                )
                self._layers.whole = False
        return found

    def _open(
        self, document: Document, at: KeyPath, text: str, folder: Path, stack: tuple[str, ...]
    ) -> Document | None:
        """The file that an entry names; None where it can't be had, and the reason is reported."""
        named = f"`{printable(text[:80])}`"
        if "${" in text:
            what = "`extends` is read before there are variables: it can't hold a reference"
            self._report(document, at, "bad-reference", what, "write the path out")
            return None
        if "://" in text:
            what = f"{named} is an address, and a recipe extends files alone"
            self._report(document, at, "missing-file", what, "download it and name the file")
            return None
        path = _joined(folder, text)
        real = os.path.realpath(path)
        if real in stack:
            way = [*stack[stack.index(real) :], real]
            names = " → ".join(f"`{printable(Path(step).name[:64])}`" for step in way)
            self._report(
                document, at, "extends-cycle", f"a recipe can't extend itself: {names}", "remove one of them"
            )
            return None
        if len(stack) > MAX_DEPTH:
            what = f"{named} would be the file number {len(stack) + 1} in a row: at most {MAX_DEPTH} extend one another"
            self._report(document, at, "too-deep", what, "merge some of them")
            return None
        self._count += 1
        if self._count > MAX_FILES:
            self._report(document, at, "too-large", f"a recipe extends at most {MAX_FILES} files")
            return None
        child = _read(path, self._count)
        self._layers.ranks.setdefault(child.source.name, self._count)
        problems = child.problems
        if child.data is None and not problems:
            problems = [diagnostic("empty-recipe", "there is nothing in this file", child.source)]
        for problem in problems:
            if problem.line is None:
                what = f"can't extend {named}: {problem.message}"
                self._report(document, at, problem.code, what, _help(problem, path, text))
            else:
                self._layers.problems.append(problem)
        if child.data is None:
            return None
        if not isinstance(child.data, dict):
            what = f"can't extend {named}: a recipe is a section of keys, and this is {shown(child.data)}"
            self._report(document, at, "not-a-recipe", what)
            return None
        self._nodes += child.nodes
        if self._nodes > MAX_NODES:
            what = f"with {named}, the recipe has more than {MAX_NODES} values"
            self._report(document, at, "too-large", what)
            return None
        return child

    def _report(
        self, document: Document, at: KeyPath, code: str, message: str, help: str | None = None
    ) -> None:
        self._layers.problems.append(_problem(document, at, code, message, help))


def _help(problem: Diagnostic, path: Path, text: str) -> str | None:
    """A way out that is written as `extends` has it: relative to the file that it stands in."""
    if problem.code == "not-a-file":
        return "name a file inside of it" if path.is_dir() else None
    if problem.code != "missing-file":
        return problem.help
    try:
        close = similar_name(path)
    except OSError:
        return f"the folder `{printable(os.path.dirname(text)[:80])}` doesn't exist either"  # noqa: PTH120 - as written
    if close is None:
        return "the path is relative to the file that it stands in"
    return f"did you mean `{printable(os.path.join(os.path.dirname(text), close))}`?"  # noqa: PTH118, PTH120


def _joined(folder: Path, text: str) -> Path:
    joined = os.path.join(folder, os.path.expanduser(text))  # noqa: PTH111, PTH118 - `~nobody` is no exception
    plain = os.path.normpath(joined)
    try:
        return Path(plain if os.path.realpath(plain) == os.path.realpath(joined) else joined)
    except ValueError:  # a null byte
        return Path(plain)


def _read(path: Path, rank: int) -> Document:
    """A recipe file, and nothing that would keep us waiting for its first byte."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        mode = stat.S_IFREG  # reading it says why
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        source = Source(str(path))
        return Document(source, problems=[diagnostic("not-a-file", "it is no regular file", source)])
    return read_file(path, rank)


def _take_profiles(layer: Document, layers: Layers) -> None:
    """Move the profiles of a file to the layers of their names."""
    given = layer.data.pop("profiles", None)
    if layer.tags.get(("profiles",)) == RESET:
        layers.profiles.clear()
        given = given if given is not None else {}
    if not isinstance(given, dict):
        if given is not None or ("profiles",) in layer.places:
            what = f"`profiles` must be a section of profiles by their names, got {shown(given)}"
            help = "for example `profiles: {laptop: {engine: {device: cpu}}}`"
            layers.problems.append(_problem(layer, ("profiles",), "wrong-type", what, help))
        return
    layer.data["profiles"] = given  # for `part`
    for name, value in given.items():
        at = ("profiles", name)
        where = dotted(at)
        if not _PROFILE.fullmatch(name):
            what = f"`{where}`: a profile is named by 1 to 63 of `A-Z a-z 0-9 . _ -`, starting with a letter or a digit"
            layers.problems.append(_problem(layer, at, "invalid-value", what, at_key=True))
            continue
        if layer.tags.get(at) == RESET:
            layers.profiles.pop(name, None)
            if value is None:
                continue
        if not isinstance(value, dict):
            what = f"`{where}` must be a section of keys, got {shown(value)}"
            help = "write the keys that the profile changes, or remove it"
            layers.problems.append(_problem(layer, at, "wrong-type", what, help))
            continue
        if name not in layers.profiles and len(layers.profiles) >= MAX_PROFILES:
            what = f"a recipe has at most {MAX_PROFILES} profiles"
            layers.problems.append(_problem(layer, at, "too-large", what, at_key=True))
            break
        profile = part(layer, at, name)
        profile.data = {key: inner for key, inner in value.items() if key not in _NOT_IN_PROFILES}
        for key in _NOT_IN_PROFILES:
            if key in value:
                what = f"a profile can't hold `{key}`: it is a key of the file"
                problem = _problem(
                    layer, (*at, key), "unknown-key", what, "move it to the top level", at_key=True
                )
                layers.problems.append(problem)
        layers.profiles.setdefault(name, []).append(profile)
    del layer.data["profiles"]


def _problem(
    document: Document, at: KeyPath, code: str, message: str, help: str | None = None, *, at_key: bool = False
) -> Diagnostic:
    place = document.places.get(at)
    if place is None:
        return diagnostic(code, message, document.source, help=help)
    span = place.key if place.key is not None and (at_key or place.value.length == 0) else place.value
    return diagnostic(code, message, place.source, replace(span, length=max(1, span.length)), help)
