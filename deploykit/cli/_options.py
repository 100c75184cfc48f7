"""Options that several commands have, spelt once."""

from __future__ import annotations

from typing import Annotated

import typer

Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=C", help="Another value for a key of the recipe; repeatable."),
]
Profiles = Annotated[
    list[str] | None,
    typer.Option("--profile", metavar="NAME", help="Lay a profile of the recipe over it; repeatable."),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
