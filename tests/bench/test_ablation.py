"""The ablation: every optimisation can be switched off, and scores stay nearly the same."""

import pytest
from model_folders import needs_int8

from bench import ablation
from bench.recipes.grow import folder_of
from bench.shared.options import TINY
from quals_fast import QualsScorer

TEXT = "queen anne opened the tower by the river in 1969 , forty won"
TEXTS = [TEXT, f"{TEXT} {TEXT}"], ["anne opened the tower", "the queen won in 1969"]


@needs_int8
@pytest.mark.parametrize("name", ablation.PREDICTED)
def test_every_optimisation_can_be_switched_off(name, monkeypatch):
    def tiny():
        return QualsScorer.from_pretrained(folder_of(TINY), device="cpu", dtype="mixed")

    monkeypatch.setattr(ablation, "_scorer", tiny)
    scorer = tiny()
    expected = scorer.score(*TEXTS).scores  # numbers: `approx` lets no NaN pass
    with ablation.without(name, scorer) as other:
        assert other.score(*TEXTS).scores == pytest.approx(expected, abs=0.1)
