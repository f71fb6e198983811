"""The model cards: what config.json and the measured results say, as text."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from bench.recipes.qags_training.data import CAPS
from bench.recipes.qags_training.packing import ANSWERING, GENERATION
from bench.recipes.qags_training.question_answering import UNANSWERABLE
from bench.recipes.qags_training.question_generation import WHOLE_PASSAGES
from bench.shared.common import RESULTS
from quals_fast.models.checkpoint import read_json

_TEMPLATES = Path(__file__).parent / "templates"


def write() -> None:
    """Write README.md into both folders, with the scores if there are any."""
    path = RESULTS / "qags_models.json"
    scores = read_json(path) if path.is_file() else {}
    templates = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
    )
    for folder in (ANSWERING, GENERATION):
        if (folder / "config.json").is_file():
            weights = next(folder.glob("*.safetensors"))
            card = templates.get_template(f"{folder.name}.md.j2").render(
                config=read_json(folder / "config.json"),
                mebibytes=weights.stat().st_size / 2**20,
                scores=scores.get(folder.name),
                caps=CAPS,
                unanswerable=UNANSWERABLE,
                whole_passages=WHOLE_PASSAGES,
            )
            (folder / "README.md").write_text(card, "utf-8")
