"""The ablation: every optimisation can be switched off, and scores stay nearly the same."""

import pytest
import tiny_models

from bench import ablation
from quals_fast import QualsScorer

TEXT = "queen anne opened the tower by the river in 1969 , forty won"
TEXTS = [TEXT, f"{TEXT} {TEXT}"], ["anne opened the tower", "the queen won in 1969"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_models.write_checkpoint(tmp_path_factory.mktemp("ablation") / "m", trained_on=TEXT)


@pytest.mark.parametrize("name", ablation.PREDICTED)
def test_every_optimisation_can_be_switched_off(name, folder, monkeypatch):
    def tiny():
        return QualsScorer.from_pretrained(folder, device="cpu", dtype="mixed")

    monkeypatch.setattr(ablation, "_scorer", tiny)
    scorer = tiny()
    expected = scorer.score(*TEXTS).scores
    with ablation.without(name, scorer) as other:
        assert other.score(*TEXTS).scores == pytest.approx(expected, abs=0.1)
