"""The one exception that every room raises for a fault that a person can act on."""

from __future__ import annotations

EXIT_OK = 0
EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_NO_FIT = 3
EXIT_INTERRUPTED = 130


class DeploykitError(Exception):
    """What went wrong, where, why, and what to do next.

    `what` is one sentence, `where` a place (a file, a key, a URL), `why` the cause and `fix` the next step.
    `exit_code` is what the command line ends with (2 usage or configuration, 3 does not fit, 1 everything else).
    """

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        why: str | None = None,
        fix: str | None = None,
        exit_code: int = EXIT_FAILURE,
    ) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.why = why
        self.fix = fix
        self.exit_code = exit_code

    def __str__(self) -> str:
        lines = [self.what]
        if self.where:
            lines.append(f"  where: {self.where}")
        if self.why:
            lines.append(f"  why:   {self.why}")
        if self.fix:
            lines.append(f"  fix:   {self.fix}")
        return "\n".join(lines)


class ConfigError(DeploykitError):
    """The recipe, a flag or an input file is wrong: exit code 2."""

    def __init__(
        self, what: str, *, where: str | None = None, why: str | None = None, fix: str | None = None
    ) -> None:
        super().__init__(what, where=where, why=why, fix=fix, exit_code=EXIT_USAGE)
