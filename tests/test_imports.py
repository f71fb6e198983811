"""Imports run one way, and importing quals_fast costs nothing."""

import ast
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import quals_fast

ROOT = Path(__file__).parent.parent

# Who may import whom, inside the project: a module may import its own layer and those before it.
LAYERS = [
    {"quals_fast_kernels"},
    {"errors", "processes"},
    {"ops"},
    {"calibration", "config", "resampling", "results", "signature", "validation"},
    {"models", "batching", "decoding"},
    {"engine"},
    {"exported"},
    {"export"},
    {"backends"},
    {"scorer"},
    {"jobs"},
    {"calibrating", "classifier", "comparison", "evaluation", "pages", "reference", "qags"},
    {"training", "scale", "serving", "study"},
    {"commands"},
    {"__main__"},
]
WITHOUT_TORCH = {
    "quals_fast_kernels.group_select_host",
    *(f"quals_fast_kernels.group_select_host.{n}" for n in ("HostChoice", "group_select_host")),
}
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
SOURCES = sorted([*(ROOT / "quals_fast").rglob("*.py"), *(ROOT / "kernels").rglob("*.py")])


def part_of(module: str) -> str | None:
    """Return the part of the project that a module belongs to, or None."""
    names = module.split(".")
    if names[0] == "quals_fast_kernels":
        return "quals_fast_kernels"
    if names[0] != "quals_fast" or len(names) == 1:
        return None
    return names[1]


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            assert node.module is not None
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def module_of(path: Path) -> str:
    base = ROOT / "kernels" if "kernels" in path.relative_to(ROOT).parts else ROOT
    return ".".join(path.relative_to(base).with_suffix("").parts)


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_imports_run_one_way(path):
    own = part_of(module_of(path).removesuffix(".__init__"))
    if own is None:
        return  # quals_fast/__init__.py loads lazily; its type-checking imports do not run
    assert own in RANK, f"{path} is in no layer: add it to LAYERS"
    for module in imports(path):
        other = part_of(module)
        if other is None or other not in RANK:
            continue
        assert RANK[other] <= RANK[own], f"{module_of(path)} must not import {module}"
        if other == "quals_fast_kernels":
            allowed = own in ("ops", "quals_fast_kernels") or module in WITHOUT_TORCH
            assert allowed, "only ops imports quals_fast_kernels, but for what needs no torch"
        if other == "reference":
            assert own == "reference", "only tests and bench import it"


@pytest.mark.parametrize("room", ["quals_fast", "bench", "tests", "examples"])
def test_what_is_imported_from_the_top_is_there(room):
    """Not seen by mypy, since the top has a `__getattr__`."""
    for path in (ROOT / room).rglob("*.py"):
        for name in imports(path):
            top, _, rest = name.partition(".")
            if top == "quals_fast" and "." not in rest:
                is_there = rest in ("", *quals_fast.__all__) or find_spec(name) is not None
                assert is_there, f"{path} imports {name}"


def test_kernels_import_nothing_of_quals_fast():
    for path in (ROOT / "kernels").rglob("*.py"):
        assert not {m for m in imports(path) if m.split(".")[0] == "quals_fast"}


@pytest.mark.parametrize(
    "statement",
    [
        "import quals_fast",
        "import quals_fast.commands.app",
        "from quals_fast import DecodingConfig",
    ],
)
def test_importing_is_cheap(statement):
    heavy = (
        "{'torch', 'transformers', 'triton', 'onnxruntime', 'matplotlib', 'scipy', 'jinja2', "
        "'huggingface_hub'}"
    )
    code = f"import sys; {statement}; print(sorted({heavy} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_loading_and_scoring_import_no_compiler(tiny_folder):
    """torch's takes a second to import, and needs sympy."""
    code = (
        "import sys; from quals_fast import QualsScorer; "
        "scorer = QualsScorer.from_pretrained(sys.argv[1], device='cpu', backend='eager'); "
        "scorer.score(['the town'], ['anne']); "
        "print(sorted({'torch._dynamo', 'sympy', 'transformers'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, str(tiny_folder)]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_public_names():
    assert set(quals_fast.__all__) == {
        "DecodingConfig",
        "QAPair",
        "QualsResult",
        "QualsScorer",
        "ScoringConfig",
        "__version__",
    }
    for name in quals_fast.__all__:
        assert getattr(quals_fast, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Scorer'"):
        _ = quals_fast.Scorer
