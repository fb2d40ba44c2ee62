"""Values of options without pydantic: the same as with it, for the kinds that we have."""

from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer import core
from typer.testing import CliRunner

from ruchu.cli import coercion

app = typer.Typer()


@app.command()
def command(
    text: str,
    count: Annotated[int, typer.Option("--count", min=1, max=9)] = 3,
    path: Annotated[Path | None, typer.Option("--path")] = None,
    flag: Annotated[bool, typer.Option("--flag")] = False,  # noqa: FBT002 - an option
    several: Annotated[list[str] | None, typer.Option("--several")] = None,
    sampled: Annotated[int | None, typer.Option("--sampled", min=1)] = None,
    ratio: Annotated[float, typer.Option("--ratio")] = 0.5,
) -> None:
    typer.echo(repr((text, count, path, flag, several, sampled, ratio)))


@pytest.fixture(params=["typer", "ours"])
def invoke(request, monkeypatch):
    # Undone at the end.
    monkeypatch.setattr(core, "build_runtime_param", core.build_runtime_param)
    if request.param == "ours":
        coercion.install()
    return lambda *words: CliRunner().invoke(app, words)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["x"], ("x", 3, None, False, None, None, 0.5)),
        (
            ["5", "--count", "9", "--path", "a/b", "--flag"],
            ("5", 9, Path("a/b"), True, None, None, 0.5),
        ),
        (["x", "--several", "a", "--several", "b"], ("x", 3, None, False, ["a", "b"], None, 0.5)),
        (["x", "--sampled", "1000", "--ratio", "2"], ("x", 3, None, False, None, 1000, 2.0)),
    ],
)
def test_values(invoke, words, expected):
    done = invoke(*words)
    assert done.exit_code == 0, done.output
    assert done.output.strip() == repr(expected)


@pytest.mark.parametrize(
    "words", [[], ["x", "--count", "0"], ["x", "--count", "10"], ["x", "--count", "a"],
              ["x", "--sampled", "0"], ["x", "--odd"], ["x", "--ratio", "a"]],
)  # fmt: skip
def test_values_that_are_none(invoke, words):
    assert invoke(*words).exit_code == 2


def test_the_place_where_we_step_in_is_there():
    # A release of typer without it only starts slowly; then this is to be looked at.
    assert callable(core.build_runtime_param)


def test_without_that_place_nothing_happens(monkeypatch):
    monkeypatch.delattr(core, "build_runtime_param")
    coercion.install()
    assert not hasattr(core, "build_runtime_param")
