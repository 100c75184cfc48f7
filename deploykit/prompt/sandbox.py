"""Jinja for chat templates: transformers' dialect, in a sandbox whose loops, time and sizes are bounded.

What is guaranteed: a template reads only what it is given; each turn of a loop and each call of a macro looks at the
clock, so no chain of them runs past the limit; strings grown by `+ * % ~` and the output are capped. A single builtin
call on strings under the cap (a `replace`, a `join`) isn't interrupted. Rendering belongs into a worker thread, so
that even that delays other requests for at most the time of one such call.
"""

from __future__ import annotations

import datetime
import functools
import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

from jinja2 import TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

MAX_OUTPUT = 4 << 20  # characters of a rendered prompt, and of any string a template builds
MAX_SECONDS = 1.0
MAX_REPEAT = 1 << 16  # largest whole number a template may hand to a string's method (`ljust(n)`, …)


_WIDTH = re.compile(r"\d{6}")  # a field that wide in a format string, as in `{:>1000000}`
_SIZED_FILTERS = ("batch", "center", "format", "indent", "truncate", "wordwrap")


class RenderLimit(Exception):
    """The template ran over its time or its size."""


class _Raised(TemplateError):
    """The template itself called raise_exception(message)."""


def _raise_exception(message: object) -> NoReturn:
    raise _Raised(str(message))


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as it is, where Jinja's own filter would escape it for HTML."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _strftime_now(pattern: str) -> str:
    return datetime.datetime.now().strftime(pattern)  # local time, as transformers has it


def _sized(function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that refuses numbers that would make it build something huge."""

    @functools.wraps(function)  # with the marks that tell Jinja what to pass
    def guarded(*args: Any, **kwargs: Any) -> Any:
        _check_arguments(args, kwargs)
        return function(*args, **kwargs)

    return guarded


def _check_arguments(args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    for value in (*args, *kwargs.values()):
        if isinstance(value, int) and abs(value) > MAX_REPEAT:
            raise SecurityError(f"a number over {MAX_REPEAT} for a string")


def _check_format(text: str) -> None:
    if _WIDTH.search(text) or "*" in text:
        raise SecurityError("a format with so wide a field")


class _Generation(Extension):
    """`{% generation %} … {% endgeneration %}` marks an assistant's turn for training; here it is just its body."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Instrument(NodeTransformer):
    """Puts a look at the clock into every loop and macro, and guards `~`."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        return self._ticking(node)

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:
        return self._ticking(node)

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.Node:
        return self._ticking(node)

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        call = nodes.Call(nodes.EnvironmentAttribute("concat_strings"), node.nodes, [], None, None)
        return call.set_lineno(node.lineno)

    def _ticking(self, node: nodes.For | nodes.Macro | nodes.CallBlock) -> nodes.Node:
        self.generic_visit(node)
        call = nodes.Call(nodes.EnvironmentAttribute("tick"), [], [], None, None)
        node.body.insert(0, nodes.ExprStmt(call).set_lineno(node.lineno))
        return node


class TemplateEnvironment(ImmutableSandboxedEnvironment):
    """The environment that chat templates are compiled in; rendering starts with `start_clock`."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation])
        self._clock = threading.local()
        self.filters["tojson"] = _tojson
        self.globals["raise_exception"] = _raise_exception
        self.globals["strftime_now"] = _strftime_now
        self.filters.update({name: _sized(self.filters[name]) for name in _SIZED_FILTERS})

    def start_clock(self, seconds: float) -> None:
        """This thread renders from now on, for at most `seconds`."""
        self._clock.deadline = time.monotonic() + seconds

    def tick(self) -> None:
        if time.monotonic() > self._clock.deadline:
            raise RenderLimit("it ran longer than it may")

    def concat_strings(self, *values: object) -> str:
        text = "".join(str(value) for value in values)
        self._check_size(len(text))
        return text

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "*":
            for sequence, count in ((left, right), (right, left)):
                if isinstance(sequence, str | list | tuple) and isinstance(count, int):
                    self._check_size(len(sequence) * count)
        elif operator == "**":
            if isinstance(right, int) and abs(right) > 64:
                raise SecurityError("an exponent over 64")
        elif operator == "%" and isinstance(left, str):
            _check_format(left)
            _check_arguments(right if isinstance(right, tuple) else (right,), {})
        return self._bounded(super().call_binop(context, operator, left, right))

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(getattr(__obj, "__self__", None), str) or hasattr(__obj, "__wrapped__"):
            _check_arguments(args, kwargs)  # a string's method, or its guarded `format`
        return __self._bounded(super().call(__context, __obj, *args, **kwargs))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        wrapped = super().wrap_str_format(value)
        if wrapped is not None:
            _check_format(value.__self__)
        return wrapped

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        _Instrument().visit(tree)
        return tree

    def _bounded(self, value: Any) -> Any:
        if isinstance(value, str | list | tuple):
            self._check_size(len(value))
        return value

    def _check_size(self, size: int) -> None:
        if size > MAX_OUTPUT:
            raise RenderLimit("it builds a text larger than it may")


def render(
    environment: TemplateEnvironment, generate: Callable[[], Iterator[str]], seconds: float = MAX_SECONDS
) -> str:
    """Run a template's generator under the limits. Raises RenderLimit."""
    environment.start_clock(seconds)
    parts: list[str] = []
    size = 0
    for part in generate():
        size += len(part)
        if size > MAX_OUTPUT:
            raise RenderLimit("its output is larger than it may be")
        environment.tick()
        parts.append(part)
    return "".join(parts)


def raised_message(error: TemplateError) -> str | None:
    """What the template said with raise_exception, or None where it failed for another reason."""
    return (error.message or "") if isinstance(error, _Raised) else None
