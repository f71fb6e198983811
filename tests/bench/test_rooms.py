"""The rooms of bench: how its modules are found, and that its README lists every command."""

import ast
import re
from importlib.util import find_spec
from pathlib import Path

import pytest

from bench import ROOMS
from bench.shared.common import ROOT

BENCH = ROOT / "bench"
INDEX = (BENCH / "README.md").read_text("utf-8")
PAGES = [
    *ROOT.glob("*.md"),
    *(path for room in ("docs", "bench", "quals_fast") for path in (ROOT / room).rglob("*.md")),
]


def modules_in(folder):
    """Names of a folder's modules and packages."""
    packages = [path.parent for path in folder.glob("*/__init__.py")]
    return {path.stem for path in [*folder.glob("*.py"), *packages]} - {"__init__", "__main__"}


def commands_named_in(text):
    names = set(re.findall(r"python3? -m (bench[a-z_.]*[a-z])", text))
    return names | {f"bench.ops.{name}" for name in re.findall(r"`(bench_[a-z_]+)`", text)}


def imported_by(path):
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (one.name for one in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == "bench":
            yield from (f"bench.{one.name}" for one in node.names if one.name != "ROOMS")
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module


def is_full_name(module):
    path = ROOT.joinpath(*module.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def test_code_imports_by_full_names():
    files = [*BENCH.rglob("*.py"), *(ROOT / "tests").rglob("*.py")]
    short = {
        f"{path.relative_to(ROOT)}: {module}"
        for path in files
        for module in imported_by(path)
        if module.split(".")[0] == "bench" and not is_full_name(module)
    }
    assert not short


def test_no_two_rooms_have_a_module_of_the_same_name():
    names = [name for room in ("", *ROOMS) for name in modules_in(BENCH / room)]
    assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_that_pages_show_are_found(page):
    for name in commands_named_in(page.read_text("utf-8")):
        spec = find_spec(name)
        assert spec is not None, name
        assert not spec.submodule_search_locations or find_spec(f"{name}.__main__"), name


def test_the_index_lists_every_command():
    listed = {Path(find_spec(name).origin) for name in commands_named_in(INDEX)}
    commands = {
        path.with_name("__init__.py") if path.stem == "__main__" else path
        for path in BENCH.rglob("*.py")
        if '__name__ == "__main__"' in path.read_text("utf-8")
    }
    assert listed == commands
    scripts = set(re.findall(r"`(bench/\w+\.sh)`", INDEX))
    assert scripts == {str(path.relative_to(ROOT)) for path in BENCH.glob("*.sh")}
