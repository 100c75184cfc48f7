"""What an operation of a template would build, worked out before it is done: a line of Jinja can ask for terabytes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jinja2.exceptions import SecurityError
from jinja2.nodes import EvalContext
from jinja2.runtime import Context
from jinja2.sandbox import SandboxedEnvironment
from jinja2.utils import Namespace

MAX_OUTPUT = 4 << 20  # characters of a rendered prompt, and of any string that a template builds
MAX_NUMBER = (
    1 << 16
)  # largest whole number a template may hand to a string's method or a filter (`ljust(n)`, …)
MAX_BITS = 1 << 14  # of a whole number that a template computes
MAX_SLOW = 1 << 16  # characters for filters that take long over each of them
MAX_INDENT = 16

# Filters whose whole numbers say how much to build or to walk through.
_SIZED = frozenset({"batch", "center", "format", "indent", "round", "slice", "truncate", "wordwrap"})
_SLOW = frozenset({"pprint", "striptags", "urlize", "wordwrap", "xmlattr"})
_LIGHT = frozenset({int, float, bool, type(None)})
_NO_METHODS_OF = (int, float, bytes)  # no chat template needs them; `to_bytes` and bytes know no limit
_NO_METHODS = frozenset({"encode", "maketrans", "translate"})


class RenderLimit(Exception):
    """The template ran over its time or its size."""


def too_large() -> RenderLimit:
    return RenderLimit("it builds a text larger than it may")


def check_size(size: int) -> None:
    if size > MAX_OUTPUT:
        raise too_large()


def weigh(value: Any) -> int:
    """Characters and elements of a value with everything in it, as often as it stands there.

    A list that holds another twice is as heavy as what it prints. Raises RenderLimit over MAX_OUTPUT.
    """
    total = 0
    stack = [value]
    while stack:
        item = stack.pop()
        if type(item) in _LIGHT:
            total += 1
        elif isinstance(item, str):
            total += len(item) + 1
        elif isinstance(item, Mapping):
            total += 2 * len(item) + 1
            check_size(total)
            stack.extend(item.keys())
            stack.extend(item.values())
        elif isinstance(item, list | tuple | set | frozenset):
            total += len(item) + 1
            check_size(total)
            stack.extend(item)
        else:
            refuse_namespace(item)
            total += 1
        if total > MAX_OUTPUT:
            raise too_large()
    return total


def refuse_namespace(value: Any) -> None:
    """A namespace is the one thing that can be changed, and so come to hold itself: it isn't put anywhere."""
    if isinstance(value, Namespace):
        raise SecurityError("a namespace can't be printed, or be a part of another value")


def check_numbers(values: Iterable[Any]) -> None:
    for value in values:
        if isinstance(value, int) and abs(value) > MAX_NUMBER:
            raise SecurityError(f"a number over {MAX_NUMBER} for a string")


def check_binary(operator: str, left: Any, right: Any) -> None:
    """Before `left operator right`."""
    if operator == "*":
        for sequence, count in ((left, right), (right, left)):
            if isinstance(sequence, str | list | tuple) and isinstance(count, int):
                check_size(len(sequence) * count)
        if isinstance(left, int) and isinstance(right, int):
            _check_bits(left.bit_length() + right.bit_length())
    elif operator == "**" and isinstance(right, int):
        if abs(right) > 64:
            raise SecurityError("an exponent over 64")
        if isinstance(left, int):
            _check_bits(left.bit_length() * abs(right))
    elif operator == "%" and isinstance(left, str):
        _check_percent(left, right if isinstance(right, tuple) else (right,))


def _check_bits(bits: int) -> None:
    if bits > MAX_BITS:
        raise SecurityError(f"a number of over {MAX_BITS} bits")


def check_format(text: str) -> None:
    """A format string with a field so wide, as in `{:>1000000}` or `%*d`."""
    digits = 0
    for char in text:
        digits = digits + 1 if char.isdigit() else 0
        if digits > 5 or char == "*":
            raise SecurityError("a format with so wide a field")


def _check_percent(text: str, values: Sequence[Any]) -> None:
    check_format(text)
    check_numbers(values)
    _check_fields(text.count("%"), text, values)


def _check_fields(fields: int, text: str, values: Iterable[Any]) -> None:
    check_size(len(text) + fields * max((weigh(value) for value in values), default=0))


def check_method(method: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Before a method of a text is called, or a wrapped `format`."""
    owner, name = getattr(method, "__self__", None), getattr(method, "__name__", "")
    if isinstance(owner, _NO_METHODS_OF) or (isinstance(owner, str) and name in _NO_METHODS):
        raise SecurityError(f"the method {name} isn't there for templates")
    wrapped = getattr(method, "__wrapped__", None)  # jinja2's own str.format
    if wrapped is not None and isinstance(getattr(wrapped, "__self__", None), str):
        owner, name = wrapped.__self__, "format"
    if not isinstance(owner, str):
        return
    values = (*args, *kwargs.values())
    check_numbers(values)
    if name in ("format", "format_map"):
        check_format(owner)
        _check_fields(owner.count("{"), owner, values)
    elif name == "replace" and len(args) >= 2:
        _check_replace(owner, *args[:2])
    elif name == "join" and args:
        _check_join(owner, args[0])
    elif name == "expandtabs":
        check_size(len(owner) + owner.count("\t") * next((v for v in values if isinstance(v, int)), 8))


def _check_replace(text: str, old: Any, new: Any) -> None:
    if isinstance(old, str) and isinstance(new, str):
        check_size(len(text) + text.count(old) * max(0, len(new) - len(old)))


def _check_join(separator: Any, items: Any) -> None:
    if isinstance(items, Sequence):
        check_size(weigh(list(items)) + len(items) * len(str(separator)))


def check_filter(name: str, args: list[Any], kwargs: Mapping[str, Any]) -> None:
    """Before a filter runs on `args[0]`; a generator among `args` that has to be counted becomes a list there."""
    values = [*args, *kwargs.values()]
    for value in values:
        refuse_namespace(value)
    if name in _SIZED:
        check_numbers(values)
    if name in _SLOW and sum(weigh(value) for value in values) > MAX_SLOW:
        raise too_large()
    subject, rest = args[0] if args else None, args[1:]
    if name == "replace" and len(rest) >= 2:
        _check_replace(str(subject), str(rest[0]), str(rest[1]))
    elif name == "join":
        if not isinstance(subject, Sequence | Mapping):
            args[0] = subject = list(subject)  # type: ignore[arg-type]  # else join itself would fail
        _check_join(kwargs.get("d", rest[0] if rest else ""), list(subject))
    elif name == "format" and isinstance(subject, str):
        _check_percent(subject, [*rest, *kwargs.values()])
    elif name == "indent" and isinstance(subject, str):
        width = kwargs.get("width", rest[0] if rest else 4)
        columns = len(width) if isinstance(width, str) else int(width)
        check_size(len(subject) + (subject.count("\n") + 1) * columns)
    elif name == "wordwrap":
        check_size(len(str(subject)) * (1 + max(len(str(value)) for value in values[1:] or [""])))
    elif name == "tojson":
        _check_indent(kwargs.get("indent", rest[1] if len(rest) > 1 else None))
        weigh(subject)
    elif name == "sum" and not isinstance(kwargs.get("start", rest[1] if len(rest) > 1 else 0), int | float):
        raise SecurityError("a sum that starts with anything but a number")


def _check_indent(indent: Any) -> None:
    size = len(indent) if isinstance(indent, str) else indent
    if size is not None and not (isinstance(size, int) and size <= MAX_INDENT):
        raise SecurityError(f"an indent over {MAX_INDENT}")


def is_value(argument: Any) -> bool:
    """Whether a filter's argument is a template's, and not what Jinja hands to it first."""
    return not isinstance(argument, SandboxedEnvironment | EvalContext | Context)
