"""Hostile templates: what a few bytes of Jinja could ask for is refused before it is built."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from deploykit.errors import ConfigError
from deploykit.prompt.amplify import MAX_OUTPUT, RenderLimit, weigh
from deploykit.prompt.template import ChatTemplate

USER = [{"role": "user", "content": "hi"}]
DEEP = "{% set ns = namespace(x=['a']) %}{% for i in range(40) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}"
BIG = "{% set big = 'a' * 4000000 %}"

BOMBS = {
    "replace": BIG + "{{ big.replace('a', 'b' * 4000) }}",
    "replace filter": BIG + "{{ big | replace('a', 'b' * 4000) }}",
    "join": "{{ ('b' * 1000000).join(['a', 'b'] * 20000) }}",
    "join filter": "{{ range(50000) | join('b' * 1000000) }}",
    "printed": DEEP + "{{ ns.x }}",
    "as JSON": DEEP + "{{ ns.x | tojson }}",
    "as text": DEEP + "{{ ns.x | string | length }}",
    "next to text": DEEP + "{{ 'a' ~ ns.x }}",
    "in a format": DEEP + "{{ '%s' % (ns.x,) }}{{ '{}'.format(ns.x) }}",
    "a namespace": "{% set ns = namespace(x=1) %}{% set ns.x = ns %}{{ ns }}",
    "namespaces in lists": "{% set ns = namespace(x=1) %}{{ [ns, ns] }}",
    "dicts": "{% set ns = namespace(x='a') %}{% for i in range(40) %}{% set ns.x = dict(a=ns.x, b=ns.x) %}{% endfor %}",
    "compared": DEEP + DEEP.replace("ns", "other") + "{{ ns.x == other.x }}",
    "a block": "{% set ns = namespace(x='aaaa') %}{% for i in range(40) %}{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}"
    "{% set ns.x = y %}{% endfor %}",
    "a macro": BIG + "{% macro f(x) %}" + "{{ x }}" * 2000 + "{% endmacro %}{{ f(big) | length }}",
    "a filter block": BIG + "{% filter length %}" + "{{ big }}" * 2000 + "{% endfilter %}",
    "tabs": "{{ ('\\t' * 4000000).expandtabs(60000) }}",
    "a format of many": BIG + "{{ ('%s' * 1000) % ((big,) * 1000) }}",
    "format of many": BIG + "{{ ('{0}' * 1000).format(big) }}",
    "indent": "{{ ('\\n' * 4000000) | indent(60000) }}",
    "indent of JSON": "{{ [1, [2]] | tojson(indent=10 ** 9) }}",
    "translate": BIG + "{{ big.translate({97: big}) }}",
    "wordwrap": "{{ ('ab ' * 1000000) | wordwrap(1, true, 'c' * 1000000) }}",
    "sum": "{{ ([[1] * 90000] * 20) | sum(start=[]) | length }}",
    "lorem ipsum": "{{ lipsum(n=90000) }}",
    "slices": "{{ [1] | slice(10 ** 9) | list }}",
    "round": "{{ 5 | round(-10 ** 9) }}",
    "products": "{% set ns = namespace(x=9) %}{% for i in range(99) %}{% set ns.x = ns.x * ns.x %}{% endfor %}",
    "powers": "{% set ns = namespace(x=9) %}{% for i in range(9) %}{% set ns.x = ns.x ** 64 %}{% endfor %}",
    "bytes": "{{ ('a'.encode() * 10 ** 11) | length }}",
    "bytes of a number": "{{ (5).to_bytes(10 ** 10, 'big') | length }}",
    "letters": BIG + "{{ ([big] * 2000) | map('list') | list | length }}",
    "padding": "{{ ('a' * 90000) | list | map('center', 60000) | list | length }}",
    "attributes": "{{ {'a': '&' * 4000000} | xmlattr | length }}",
    "while compiling": "{{ 'a' | center(60000) | replace('a', 'b') }}" * 100 + "{% for i in range(99999) %}"
    "{% for j in range(99999) %}{% endfor %}{% endfor %}",
}

CHILD = """
import json, resource, sys
resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
from deploykit.prompt.errors import PromptError
from deploykit.prompt.template import ChatTemplate
for name, source in json.load(sys.stdin).items():
    try:
        ChatTemplate(source, max_seconds=0.1).render([{"role": "user", "content": "hi"}])
        code = "rendered"
    except PromptError as error:
        code = error.code + (" MemoryError" if "Memory" in error.message else "")
    except Exception as error:
        code = type(error).__name__
    print(json.dumps([name, code]), flush=True)
# Not ru_maxrss: after an exec it still holds what the parent had taken.
status = dict(line.split(":") for line in open("/proc/self/status"))
print(json.dumps(["peak MiB", int(status["VmHWM"].split()[0]) >> 10]))
"""


def test_bombs() -> None:
    """All of them in one process of 2 GiB, which has to live through them."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD],
        input=json.dumps(BOMBS),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    results = dict(json.loads(line) for line in done.stdout.splitlines())
    peak = results.pop("peak MiB")
    assert set(results) == set(BOMBS)
    assert {
        name: code for name, code in results.items() if code not in ("template_limit", "template_failed")
    } == {}
    assert peak < 700  # what a template may build in all, and the interpreter


@pytest.mark.parametrize(
    "source",
    [
        "{{ " + "(" * 50_000 + ")" * 50_000 + " }}",
        "{% for i in x %}" * 30 + "{% endfor %}" * 30,
        "{% if x %}" * 3000 + "{% endif %}" * 3000,
        "{{ 'a' | nothing }}",
        "{{ [" + "1," * 50_000 + "1 }}",
        "{{ a }}" * 100_000,
    ],
    ids=["brackets", "loops", "conditions", "filter", "open list", "large"],
)
def test_what_no_compiler_takes_is_a_template_that_is_wrong(source: str) -> None:
    with pytest.raises(ConfigError, match="chat template"):
        ChatTemplate(source, where="t.jinja")


def test_the_weight_of_a_value() -> None:
    assert weigh("abc") == 4
    assert weigh(5) == 1
    assert weigh(["ab", ["ab"], {"k": 1}]) == weigh(["ab", {"k": 1}, ("ab",)])
    twice = ["a" * 1000]
    for _ in range(3):
        twice = [twice, twice]
    assert weigh(twice) > 8 * 1000
    with pytest.raises(RenderLimit):
        weigh(["a" * MAX_OUTPUT])


@pytest.mark.parametrize(
    "source",
    [
        "{{ 'a-b'.replace('-', '+') }}{{ 'a-b' | replace('-', '', 1) }}{{ 'a'.center(9) }}",
        "{{ ', '.join(['a', 'b']) }}{{ [1, 2] | join('-') }}{{ {'x': 1} | join }}",
        "{{ messages | map(attribute='content') | join(',') }}{{ messages | join('|', attribute='role') }}",
        "{{ [1, {'a': [2]}] | tojson(indent=2) }}{{ messages | tojson }}{{ 'é' | tojson }}",
        "{% set ns = namespace(x=[]) %}{% for i in range(3) %}{% set ns.x = ns.x + [i] %}{% endfor %}{{ ns.x }}",
        "{% set a, b = 1, [messages[0].content] %}{{ a }}{{ b }}{{ (a, b) }}{{ {'k': b} }}",
        "{{ '%d of %s' % (1, 'x') }}{{ '{:>3}'.format(7) }}{{ '%s' | format('y') }}{{ '{a}'.format(a=1) }}",
        "{{ 'a\nb' | indent(2) }}{{ 'abcdefghi' | truncate(4, true, '') }}{{ [3, 1] | sort | first }}",
        "{{ [1, 2] | sum }}{{ 3 * 4 }}{{ 2 ** 10 }}{{ 2.5 | round(1) }}{{ [1, 2, 3] | batch(2) | list }}",
        "{% macro f(x) %}<{{ x }}>{% endmacro %}{{ f(1) ~ f(none) }}{% set y %}z{% endset %}{{ y }}",
        "{{ messages[0].items() | list }}{{ 'A' if 'i' in messages[0]['content'] else 'B' }}",
        "{% filter upper %}x{{ 1 }}{% endfilter %}{{ nothing }}{{ [nothing] | length }}{{ messages[::-1] }}",
        "{{ messages | selectattr('role', 'in', ['user']) | list }}",
        "{{ messages | groupby('role') | list | length }}{{ 'a b' | wordcount }}{{ ['b', 'a'] | unique | list }}",
        "{{ cycler('a', 'b').next() }}{{ dict(a=1) }}{{ namespace(a=1).a }}{{ 'x' * 3 }}{{ [0] * 3 }}{{ 7 % 4 }}",
    ],
)
def test_what_templates_do_is_still_transformers_own(source: str) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    [expected], _ = render_jinja_template(conversations=[USER], chat_template=source)
    assert ChatTemplate(source).render(USER, add_generation_prompt=False) == expected
