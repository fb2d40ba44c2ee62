"""Options that several commands have."""

from pathlib import Path
from typing import Annotated

import typer

from ruchu.errors import UsageError
from ruchu.units import parse_size

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
PassphraseFile = Annotated[
    Path | None, typer.Option("--passphrase-file", help="File whose line is the passphrase.")
]
KeyFile = Annotated[Path | None, typer.Option("--key-file", help="File whose bytes are the key.")]
StorageOption = Annotated[str, typer.Option("--storage", help="Storage to use.")]
Point = Annotated[str, typer.Argument(help="Point: at least 4 digits of its id.")]
# That of `chunks.codec`, which is not imported before it is needed.
LEVEL_DEFAULT = 2
Level = Annotated[int, typer.Option("--level", min=0, max=19, help="zstd level; 0: none.")]
Full = Annotated[bool, typer.Option("--full", help="Also read every chunk.")]
Sampled = Annotated[
    int | None,
    typer.Option("--sampled", min=1, metavar="N", help="Also read N chunks a chain, at random."),
]
Grace = Annotated[
    str, typer.Option("--grace", help="How long what was removed can be brought back: 12h, 7d.")
]


def group(text: str) -> typer.Typer:
    """Return the group of commands of one noun."""
    return typer.Typer(help=text, no_args_is_help=True, rich_markup_mode=None)


def size_of(text: str) -> int:
    """Return the bytes that an option says.

    Raises:
        UsageError: it is no size.
    """
    try:
        return parse_size(text)
    except ValueError:
        raise UsageError(f"({text!r} is no size)", hint="Such as 512MiB, 4GiB.") from None


def pairs_of(texts: list[str]) -> dict[str, str]:
    """Return what `OLD=NEW` options say.

    Raises:
        UsageError: one is no such pair.
    """
    pairs = {}
    for text in texts:
        old, sign, new = text.partition("=")
        if not (old and sign and new):
            raise UsageError(f"({text!r})", hint="Such as --network default=isolated.")
        pairs[old] = new
    return pairs


def mac_of(text: str) -> str:
    """Return what `--mac` says, or raise UsageError."""
    if text not in {"keep", "new"}:
        raise UsageError(f"(--mac {text!r})", hint="keep or new.")
    return text
