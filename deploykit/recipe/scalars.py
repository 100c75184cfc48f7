"""Plain scalars by the core schema of YAML 1.2.2 (section 10.3.2), where `off` is text and `010` is ten."""

from __future__ import annotations

import re

Scalar = str | int | float | bool | None

_NULL = frozenset(("", "~", "null", "Null", "NULL"))
_TRUE = frozenset(("true", "True", "TRUE"))
_FALSE = frozenset(("false", "False", "FALSE"))
_NAN = frozenset((".nan", ".NaN", ".NAN"))
_DECIMAL = re.compile(r"[-+]?[0-9]+")
_OCTAL = re.compile(r"0o([0-7]+)")
_HEX = re.compile(r"0x([0-9a-fA-F]+)")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_INFINITY = re.compile(r"([-+]?)(?:\.inf|\.Inf|\.INF)")

MAX_INT = 2**63 - 1
_MAX_DIGITS = 400  # Python refuses to read much longer ones, and takes quadratic time for them


class NumberTooLarge(ValueError):
    """An integer beyond 64 bits, or a number of absurdly many digits."""


def resolve_plain(text: str) -> Scalar:
    """The value of an unquoted scalar. Raises NumberTooLarge."""
    if text in _NULL:
        return None
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    if text[0] not in "+-.0123456789":
        return text
    if _DECIMAL.fullmatch(text):
        return _integer(text, 10)
    if match := _OCTAL.fullmatch(text):
        return _integer(match[1], 8)
    if match := _HEX.fullmatch(text):
        return _integer(match[1], 16)
    if _FLOAT.fullmatch(text):
        if len(text) > _MAX_DIGITS:
            raise NumberTooLarge
        return float(text)
    if match := _INFINITY.fullmatch(text):
        return float(f"{match[1]}inf")
    return float("nan") if text in _NAN else text


def _integer(digits: str, base: int) -> int:
    if len(digits) > _MAX_DIGITS or abs(value := int(digits, base)) > MAX_INT:
        raise NumberTooLarge
    return value
