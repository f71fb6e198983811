"""The article's table: the command that fills it, and what the page says of its result."""

import pytest

from bench.report.evaluation import evaluation_table
from bench.studies.evaluation_table import command
from quals_fast.commands.compare import compare


def test_the_command_is_one_that_compare_takes():
    arguments = command("folder", "CORRECT")
    context = compare.make_context("compare", arguments[1:], resilient_parsing=True)
    assert context.params["metrics"] == ("quals", "qags", "classifier")
    assert context.params["input"] == ("MLE.jsonl", "ConSeq-ROUGE.jsonl", "ConSeq-QUALS.jsonl")
    assert context.params["reference_field"] == "reference"
    assert (context.params["classifier"], context.params["positive"]) == ("folder", "CORRECT")
    assert "classifier" not in command(None, None)
    context = compare.make_context(
        "compare", command("folder", None, "factcc")[1:], resilient_parsing=True
    )
    assert context.params["metrics"] == ("quals", "qags", "factcc")


class Results:
    """Has one result, or none."""

    def __init__(self, result):
        self.result = result

    def where_measured(self, name):
        assert name == "evaluation_table"
        return self.result


def measure(name, baseline, difference, p_value):
    change = {"value": difference, "low": difference - 1, "high": difference + 1}
    return {
        "name": name,
        "means": {"MLE": baseline, "ConSeq-QUALS": baseline + difference},
        "differences": [{"system": "ConSeq-QUALS", "difference": change, "p_value": p_value}],
    }


@pytest.mark.parametrize(("n", "more"), [(0, ":"), (3, " (3 more lack a score of some system):")])
def test_the_section(n, more):
    result = {
        "command": "quals-fast compare MLE.jsonl ConSeq-QUALS.jsonl",
        "baseline": "MLE",
        "systems": ["MLE", "ConSeq-QUALS"],
        "n_documents": 117,
        "n_without_score": n,
        "measures": [measure("QUALS", -2.0, 0.25, 0.04), measure("words", 16.0, 1.5, 0.06)],
    }
    text = evaluation_table(Results(result))
    assert "```sh\nquals-fast compare MLE.jsonl ConSeq-QUALS.jsonl\n```" in text
    assert f"Means over 117 documents{more}" in text
    assert "| system | QUALS | words |\n| --- | --- | --- |\n| MLE | -2.000 | 16.0 |" in text
    row = "| ConSeq-QUALS | +0.250 [-0.750, +1.250]* | +1.5 [+0.5, +2.5] |"
    assert f"| minus MLE | QUALS | words |\n| --- | --- | --- |\n{row}" in text


def test_the_section_is_empty_until_there_is_a_result():
    assert evaluation_table(Results(None)) == ""
