"""What a command imports before it works: start-up is CPU time that every run pays."""

import subprocess
import sys

import pytest

# Each takes longer to import than a short command takes in all.
HEAVY = {"pydantic", "numpy", "cryptography", "rich", "libvirt", "sqlite3", "asyncio"}


def imported(tmp_path, *words):
    program = (
        "import sys\nfrom ruchu.cli import main\n"
        f"sys.argv = ['ruchu', '--state', {str(tmp_path)!r}, *{list(words)!r}]\n"
        "try:\n    main.main()\nexcept SystemExit:\n    pass\n"
        "print('\\n', ' '.join(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    return {name.partition(".")[0] for name in done.stdout.decode().splitlines()[-1].split()}


@pytest.mark.parametrize("words", [["--help"], ["backup", "image", "--help"], ["--version"]])
def test_help_is_light(tmp_path, words):
    assert not imported(tmp_path, *words) & HEAVY


def test_a_command_imports_what_it_needs(tmp_path):
    found = imported(tmp_path, "points", "list", "--json")
    assert "numpy" in found
    assert not found & (HEAVY - {"numpy", "cryptography"})
