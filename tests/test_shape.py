"""The house rules: the shape of the code, and documents that say what is there.

Nothing here runs the product. Each test names what is wrong and where, so that a failure reads as
a list of places to mend.
"""

import ast
import functools
import importlib
import re
import subprocess
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "ruchu"
MODULE_LINES_MAX = 500
# One file by design: the exit kit has to be read and run without anything else.
EXIT_KIT, EXIT_KIT_LINES_MAX = "src/ruchu/repository/exitkit/restore.py", 1250
FUNCTION_LINES_MAX = 50
FORBIDDEN_NAMES = {"base", "common", "helper", "helpers", "manager", "misc", "util", "utils"}
# Written so that this file does not hold what it looks for.
LEFTOVERS = re.compile(r"\bFIX[M]E\b|\bX{3}\b|\bbreakpoint[(]|\bpdb\.set[_]trace\b")
REGISTRIES = re.compile(r"\b(?:pypi|pythonhosted|npmjs|debian)\.(?:org|com|net)\b")
HOMES = re.compile(r"(?<![\w.])/(?:home|Users)/\w+/|/\.pyenv/")
# A checkout elsewhere betrays the machine of whoever wrote the path into a file.
ORDINARY_PLACES = {"/", "/home", "/mnt", "/opt", "/root", "/srv", "/tmp", "/usr/src", "/var/tmp"}
STATUSES = {"works", "partly", "not yet"}


@functools.cache
def committed() -> list[Path]:
    """Return the files that are in git, or will be with the next `git add`."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    names = sorted(set(filter(None, listing.stdout.split("\0"))))
    return [ROOT / name for name in names if (ROOT / name).is_file()]


@functools.cache
def texts() -> dict[str, str]:
    """Return the text of every committed file that is text, by its path in the checkout."""
    found = {}
    for path in committed():
        content = path.read_bytes()
        if b"\0" not in content:
            found[str(path.relative_to(ROOT))] = content.decode("utf-8", errors="replace")
    return found


@functools.cache
def trees() -> dict[str, ast.Module]:
    """Return the syntax tree of every module of the product, by its path in the checkout."""
    return {
        str(path.relative_to(ROOT)): ast.parse(path.read_text())
        for path in sorted(SOURCE.rglob("*.py"))
    }


@functools.cache
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def floor_and_packages() -> set[str]:
    """Return the names right under `ruchu`: its packages, and the modules of the floor."""
    packages = {path.parent.name for path in SOURCE.glob("*/__init__.py")}
    modules = {path.stem for path in SOURCE.glob("*.py") if not path.stem.startswith("__")}
    return packages | modules


def table_rows(text: str) -> Iterator[list[str]]:
    """Yield the cells of each row of the Markdown tables in a text, without their headings."""
    lines = text.splitlines()
    for number, line in enumerate(lines):
        following = lines[number + 1] if number + 1 < len(lines) else ""
        if line.startswith("|") and not re.match(r"\|[\s:|-]+$", line):
            if re.match(r"\|[\s:|-]+$", following):
                continue
            yield [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


# ------------------------------------------------------------------------------------- the code


def test_no_module_is_too_long() -> None:
    lengths = {
        str(p.relative_to(ROOT)): len(p.read_text().splitlines()) for p in SOURCE.rglob("*.py")
    }
    assert lengths.pop(EXIT_KIT) <= EXIT_KIT_LINES_MAX
    assert not {name: lines for name, lines in lengths.items() if lines > MODULE_LINES_MAX}


def test_no_function_is_too_long() -> None:
    assert not [
        f"{name}:{node.lineno} {node.name}: {lines} lines"
        for name, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (lines := (node.end_lineno or node.lineno) - node.lineno + 1) > FUNCTION_LINES_MAX
    ]


def test_no_module_is_named_after_nothing() -> None:
    assert not [
        str(path.relative_to(ROOT))
        for path in SOURCE.rglob("*")
        if path.name != "__pycache__" and path.stem.lower() in FORBIDDEN_NAMES
    ]


def test_every_package_says_what_belongs_in_it() -> None:
    assert not [name for name, tree in trees().items() if not ast.get_docstring(tree)]


def test_every_folder_of_modules_is_a_package() -> None:
    folders = {path.parent for path in SOURCE.rglob("*.py")}
    assert not [str(path) for path in folders if not (path / "__init__.py").is_file()]


def test_no_two_test_modules_have_one_name() -> None:
    # Folders of tests are no packages, so pytest could not tell them apart.
    names = Counter(path.name for path in (ROOT / "tests").rglob("test_*.py"))
    assert not [name for name, count in names.items() if count > 1]


def test_leftovers_are_gone() -> None:
    assert not [
        f"{name}:{number} {line.strip()}"
        for name, text in texts().items()
        if name.endswith(".py") or name.startswith(("scripts/", ".ci/"))
        for number, line in enumerate(text.splitlines(), 1)
        if LEFTOVERS.search(line)
    ]


# ------------------------------------------------------------------------------------ the errors


def error_classes() -> dict[str, ast.ClassDef]:
    """Return RuchuError and every class below it, wherever it is defined."""
    classes = {
        node.name: node
        for tree in trees().values()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }

    def is_error(name: str) -> bool:
        if name == "RuchuError":
            return True
        bases = classes[name].bases if name in classes else []
        return any(is_error(ast.unparse(base).rpartition(".")[2]) for base in bases)

    return {name: node for name, node in classes.items() if is_error(name)}


def code_of(node: ast.ClassDef) -> str | None:
    """Return the `code` in the body of an error class."""
    for statement in node.body:
        match statement:
            case (
                ast.AnnAssign(target=ast.Name("code"), value=ast.Constant(str(code)))
                | ast.Assign(targets=[ast.Name("code")], value=ast.Constant(str(code)))
            ):
                return code
    return None


def test_every_error_has_a_code_of_its_own() -> None:
    codes = {name: code_of(node) for name, node in error_classes().items()}
    assert len(codes) > 1
    assert not [name for name, code in codes.items() if code is None]
    counted = Counter(codes.values())
    assert not [f"{name}: {code}" for name, code in codes.items() if counted[code] > 1]


def test_every_error_has_a_message() -> None:
    assert not [name for name, node in error_classes().items() if not ast.get_docstring(node)]


def test_the_error_tree_is_drawn_on_top_of_errors() -> None:
    package = "src/ruchu/errors/"
    drawing = ast.get_docstring(trees()[f"{package}__init__.py"]) or ""
    modules = [tree for name, tree in trees().items() if name.startswith(package)]
    nodes = [node for tree in modules for node in tree.body]
    defined = {node.name for node in nodes if isinstance(node, ast.ClassDef)}
    assert len(defined) > 1
    assert not defined - set(re.findall(r"\w+", drawing))


# ------------------------------------------------------------------------------------ the layers


def layer_names(*, optional: bool) -> set[str]:
    """Return the names in the contract of the layers, those in parentheses or the others."""
    contracts = project()["tool"]["importlinter"]["contracts"]
    layers = next(each["layers"] for each in contracts if each["type"] == "layers")
    names = [name.strip() for layer in layers for name in layer.split("|")]
    return {name.strip("()") for name in names if name.startswith("(") == optional}


def test_layers_that_exist_are_not_in_parentheses() -> None:
    assert not layer_names(optional=True) & floor_and_packages()


def test_platforms_in_the_contract_are_the_folders() -> None:
    contracts = project()["tool"]["importlinter"]["contracts"]
    listed = next(each["modules"] for each in contracts if each["type"] == "independence")
    folders = {path.parent.name for path in (SOURCE / "platforms").glob("*/__init__.py")}
    assert {name.removeprefix("ruchu.platforms.") for name in listed} == folders


def test_the_code_map_of_the_architecture_is_the_folders() -> None:
    """A row that says "not yet" is a plan; each other row stands for what is there."""
    text = (ROOT / "ARCHITECTURE.md").read_text()
    section = re.search(
        r"^## [^\n]*code map.*?(?=^## |\Z)", text, re.MULTILINE | re.DOTALL | re.IGNORECASE
    )
    assert section, "ARCHITECTURE.md has no section whose heading says 'code map'"
    written: set[str] = set()
    planned: set[str] = set()
    for cells in table_rows(section[0]):
        spans = " ".join(re.findall(r"`([^`]+)`", cells[0]))
        names = {word.partition("/")[0] for word in spans.split()}
        (planned if "not yet" in " ".join(cells).lower() else written).update(names)
    assert written == floor_and_packages()
    assert not planned & floor_and_packages()


# ------------------------------------------------------------------------------- the documents


def command_names() -> Iterator[tuple[str, list[str]]]:
    """Yield each command of the command line as it is typed, with its long options."""
    import typer.main  # noqa: PLC0415 - only this test needs the product to be importable

    module = importlib.import_module("ruchu.cli.main")
    app = next(value for value in vars(module).values() if isinstance(value, typer.Typer))

    def walk(name: str, command: Any) -> Iterator[tuple[str, list[str]]]:
        for word, below in getattr(command, "commands", {}).items():
            yield from walk(f"{name} {word}", below)
        if not hasattr(command, "commands"):
            flags = [flag for parameter in command.params for flag in parameter.opts]
            yield name, [flag for flag in flags if flag.startswith("--")]

    yield from walk("ruchu", typer.main.get_command(app))


def test_every_command_is_documented() -> None:
    if not (SOURCE / "cli" / "main.py").exists():
        return
    text = (ROOT / "docs" / "operators" / "commands.md").read_text()
    commands = list(command_names())
    assert commands
    assert not [name for name, _ in commands if name not in text]
    assert not [
        f"{name} {flag}"
        for name, flags in commands
        for flag in flags
        if flag != "--help" and not re.search(rf"{flag}(?![\w-])", text)
    ]


def feature_rows() -> list[dict[str, str]]:
    return [
        {"id": cells[0], "status": cells[-2], "test": cells[-1]}
        for cells in table_rows((ROOT / "docs" / "features.md").read_text())
        if re.fullmatch(r"[A-Z]\d+", cells[0])
    ]


def test_every_feature_has_a_status() -> None:
    rows = feature_rows()
    assert rows
    assert not [row for row in rows if row["status"] not in STATUSES]
    assert not [name for name, count in Counter(row["id"] for row in rows).items() if count > 1]


def test_a_feature_that_works_names_a_test_that_exists() -> None:
    for row in feature_rows():
        tests = re.findall(r"`(tests/[\w/.-]+?\.py)(?:::\w+)*`", row["test"])
        missing = [name for name in tests if not (ROOT / name).is_file()]
        assert not missing, row
        assert tests or row["status"] == "not yet", row


def distribution(requirement: str) -> str:
    """Return the name of the distribution in a requirement."""
    return re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0].lower()


def runtime_dependencies() -> set[str]:
    table = project()["project"]
    extras = [each for group in table["optional-dependencies"].values() for each in group]
    return {distribution(each) for each in [*table["dependencies"], *extras]}


def test_every_dependency_has_a_reason() -> None:
    reasons = "\n".join(path.read_text() for path in (ROOT / "docs" / "decisions").glob("*.md"))
    assert not [name for name in runtime_dependencies() if f"| `{name}`" not in reasons]


# ---------------------------------------------------------------------------------- the release


def test_one_version() -> None:
    namespace: dict[str, Any] = {}
    exec((SOURCE / "__init__.py").read_text(), namespace)
    assert namespace["__version__"] == project()["project"]["version"]


@pytest.mark.parametrize(
    "lock", sorted((ROOT / "requirements").glob("*.lock")), ids=lambda p: p.name
)
def test_locks_pin_versions_and_hashes_and_nothing_else(lock: Path) -> None:
    requirements = lock.read_text().replace("\\\n", " ").splitlines()
    assert requirements
    form = re.compile(
        r"[\w.-]+(\[[\w,.-]+\])?==[\w.+!]+( ; [^;]+?)?(\s+--hash=sha256:[0-9a-f]{64})+\s*"
    )
    assert not [line for line in requirements if not form.fullmatch(line)]


def test_the_runtime_lock_holds_every_dependency() -> None:
    lines = (ROOT / "requirements" / "runtime.lock").read_text().splitlines()
    locked = {distribution(line.partition("==")[0]) for line in lines if "==" in line}
    assert not runtime_dependencies() - locked


def test_nothing_names_a_registry_or_a_machine() -> None:
    place = str(ROOT.parent)
    here = place + "/" if place not in ORDINARY_PLACES and not HOMES.match(place + "/") else None
    assert not [
        f"{name}:{number} {line.strip()[:100]}"
        for name, text in texts().items()
        for number, line in enumerate(text.splitlines(), 1)
        if REGISTRIES.search(line) or HOMES.search(line) or (here is not None and here in line)
    ]
