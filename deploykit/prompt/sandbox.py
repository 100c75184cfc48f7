"""Jinja for chat templates: transformers' dialect, in a sandbox whose loops, time and sizes are bounded.

What is guaranteed: a template reads only what it is given; each turn of a loop, each call of a macro and each filter
looks at the clock, so no chain of them runs past the limit; what an operation would build is worked out before it is
done (`amplify`), so neither a string nor a list grows past its cap; and nothing is computed while a template is
compiled. A single operation under the caps (a `sort`, a `replace`) isn't interrupted. Rendering belongs into a worker
thread, so that even that delays other requests for at most the time of one of them.
"""

from __future__ import annotations

import datetime
import functools
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NoReturn

from jinja2 import TemplateError, nodes, pass_context
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from deploykit.prompt.amplify import (
    MAX_OUTPUT,
    RenderLimit,
    check_binary,
    check_filter,
    check_method,
    check_size,
    is_value,
    refuse_namespace,
    weigh,
)

MAX_SECONDS = 1.0
MAX_BUILT = 64 * MAX_OUTPUT  # characters and elements that a template's operations build, all together


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


def _concat(parts: Iterable[str]) -> str:
    """What a macro, a block or a call wrote, put together."""
    parts = list(parts)
    check_size(sum(map(len, parts)))
    return "".join(parts)


@pass_context
def _finalize(context: Context, value: Any) -> Any:
    """Before a value is printed. That it takes the context keeps Jinja from printing constants while it compiles."""
    refuse_namespace(value)
    return value


class _Generation(Extension):
    """`{% generation %} … {% endgeneration %}` marks an assistant's turn for training; here it is just its body."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Instrument(NodeTransformer):
    """Puts a look at the clock into every loop and macro, and guards `~` and what holds other values."""

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

    def visit_List(self, node: nodes.List) -> nodes.Node:
        return self._weighed(node, node.items)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        return self._weighed(node, node.items) if node.ctx == "load" else node

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:
        return self._weighed(node, [pair.value for pair in node.items])

    def _weighed(self, node: nodes.Expr, items: Iterable[nodes.Node]) -> nodes.Node:
        if all(isinstance(item, nodes.Const) for item in items):
            return node
        self.generic_visit(node)
        call = nodes.Call(nodes.EnvironmentAttribute("weighed"), [node], [], None, None)
        return call.set_lineno(node.lineno)

    def _ticking(self, node: nodes.For | nodes.Macro | nodes.CallBlock) -> nodes.Node:
        self.generic_visit(node)
        call = nodes.Call(nodes.EnvironmentAttribute("tick"), [], [], None, None)
        node.body.insert(0, nodes.ExprStmt(call).set_lineno(node.lineno))
        return node


class TemplateEnvironment(ImmutableSandboxedEnvironment):
    """The environment that chat templates are compiled in; rendering starts with `start_clock`."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})
    concat = staticmethod(_concat)

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[loopcontrols, _Generation],
            optimized=False,  # nothing is computed while it compiles, where no clock runs
            finalize=_finalize,
        )
        self._clock = threading.local()
        self.filters["tojson"] = _tojson
        self.globals["raise_exception"] = _raise_exception
        self.globals["strftime_now"] = _strftime_now
        del self.globals["lipsum"]
        self.filters.update({name: self._guarded(name, f) for name, f in self.filters.items()})

    def start_clock(self, seconds: float) -> None:
        """This thread renders from now on, for at most `seconds`."""
        self._clock.deadline = time.monotonic() + seconds
        self._clock.built = 0

    def tick(self) -> None:
        if time.monotonic() > self._clock.deadline:
            raise RenderLimit("it ran longer than it may")

    def weighed(self, value: Any) -> Any:
        """A list, a tuple or a dict that a template wrote."""
        return self._built(value)

    def concat_strings(self, *values: object) -> str:
        for value in values:
            refuse_namespace(value)
        texts = [str(value) for value in values]
        check_size(sum(map(len, texts)))
        return self._built("".join(texts))  # type: ignore[no-any-return]

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        refuse_namespace(right)
        check_binary(operator, left, right)
        return self._built(super().call_binop(context, operator, left, right))

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        if getattr(__obj, "__self__", None) is __self:  # what `_Instrument` put there: it looks by itself
            return super().call(__context, __obj, *args, **kwargs)
        for value in (*args, *kwargs.values()):
            refuse_namespace(value)
        check_method(__obj, args, kwargs)
        return __self._built(super().call(__context, __obj, *args, **kwargs))

    def _guarded(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """A filter that looks at the clock, and at what it would build."""

        @functools.wraps(function)  # with the marks that tell Jinja what to pass
        def guarded(*args: Any, **kwargs: Any) -> Any:
            self.tick()
            given = [arg for arg in args if is_value(arg)]
            ours = args[: len(args) - len(given)]
            check_filter(name, given, kwargs)
            return self._built(function(*ours, *given, **kwargs))

        return guarded

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        _Instrument().visit(tree)
        return tree

    def _built(self, value: Any) -> Any:
        """A result: not too large by itself, and not too much together with those before it."""
        if isinstance(value, str):
            check_size(len(value))
        elif isinstance(value, list | tuple | dict):
            weigh(value)
        else:
            return value
        self._clock.built += len(value)
        if self._clock.built > MAX_BUILT:
            raise RenderLimit("it builds more than it may")
        return value


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
