"""One question, one answer: plain text or JSON on stdout, the exit code for scripts."""

from __future__ import annotations

import json
import os
import stat
import sys
from typing import TextIO

from deploykit.chat.answer import Answer
from deploykit.chat.sanitize import TerminalSanitizer
from deploykit.chat.session import Session
from deploykit.errors import EXIT_INTERRUPTED, EXIT_OK, ConfigError

MAX_STDIN = 32 << 20  # bytes: what the server takes as a body by default


def piped_text(stdin: TextIO | None) -> str | None:
    """What a pipe, a file or a socket brings on stdin; None for a terminal or /dev/null."""
    if stdin is None or stdin.isatty():
        return None
    mode = os.fstat(stdin.fileno()).st_mode
    if not (stat.S_ISFIFO(mode) or stat.S_ISREG(mode) or stat.S_ISSOCK(mode)):
        return None
    data = stdin.buffer.read(MAX_STDIN + 1)
    if len(data) > MAX_STDIN:
        raise ConfigError(f"stdin brings more than {MAX_STDIN >> 20} MiB", fix="send less text")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError("stdin is not UTF-8 text", why=str(error)) from None


def join_prompt(prompt: str | None, piped: str | None) -> str | None:
    """The question: the prompt, then what was piped; None when there is neither."""
    parts = [part.strip("\r\n") for part in (prompt, piped) if part and part.strip()]
    return "\n\n".join(parts) or None


def run(session: Session, question: str, *, as_json: bool, stats: bool) -> int:
    """Ask and print. Text is sanitized even into a pipe, which may end on a terminal; JSON is exact."""
    clean = TerminalSanitizer()

    def show(text: str) -> None:
        if not as_json:
            sys.stdout.write(clean.feed(text))
            sys.stdout.flush()

    answer = session.ask(question, show)
    if as_json:
        print(json.dumps(_summary(session, answer)))
    elif not answer.text.endswith("\n"):
        print()
    if stats and not as_json:
        print(answer.stats(), file=sys.stderr)
    return EXIT_INTERRUPTED if answer.aborted else EXIT_OK


def _summary(session: Session, answer: Answer) -> dict[str, object]:
    return {
        "model": answer.model or session.model,
        "text": answer.text,
        "finish_reason": "abort" if answer.aborted else answer.finish,
        "usage": answer.usage,
        "ttft_s": answer.ttft,
        "tokens_per_s": answer.tokens_per_s,
    }
