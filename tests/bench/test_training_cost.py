"""The benchmark of scoring in training: all arms run, and the cache is what an arm's name says."""

import pytest
import tiny_models
import tiny_t5
from training_helpers import SETTINGS

from bench.shared.common import Pair
from bench.training_cost import Arms, Policy, step_batch, take_turns
from quals_fast import QualsScorer
from quals_fast.training import BackgroundScorer

TEXT = "queen anne opened the tower by the river in 1969 , forty won"
PAIRS = [Pair(w, f"{TEXT} {w}", f"anne opened the {w}", None) for w in ("tower", "river", "game")]


def test_completions_are_the_rows_own_and_the_next_ones_summaries():
    batch = step_batch(PAIRS, 2, 2)
    assert batch.documents == [p.document for p in PAIRS[:2]]
    assert batch.completions[1] == [PAIRS[1].summary, PAIRS[2].summary]


@pytest.mark.parametrize("policy", ["BART", "T5", "T5 1.1"])
def test_all_arms_run(policy, tmp_path):
    folder = tiny_models.write_checkpoint(tmp_path / "m", trained_on=TEXT)
    trained = folder
    if policy != "BART":
        config = tiny_t5.CONFIG
        if policy == "T5 1.1":  # of equal depth: generate() fails with more layers in the decoder
            config = {**tiny_t5.T5_1_1, "num_layers": 3}
        trained = tiny_t5.write_t5(tmp_path / "t5", config)
    scorer = QualsScorer.from_pretrained(folder, cache_bytes=1 << 20, **SETTINGS)
    step = step_batch(PAIRS, 2, 2)
    with BackgroundScorer(scorer) as thread, BackgroundScorer(scorer) as process:
        arms = Arms(Policy(trained, "cpu", 4), scorer, {"thread": thread, "process": process})
        of_step = list(arms.steps())
        bases = {name: "none" for name, _ in of_step[1:]}
        (found,) = take_turns(of_step, step, 1, bases)
        names = {"sync_cold", "sync_warm", "thread_cold", "thread_warm", "process_warm"}
        assert found["share"].keys() == names
        assert found["share"]["sync_warm"]["median"] == pytest.approx(
            1 - found["seconds"]["none"]["median"] / found["seconds"]["sync_warm"]["median"]
        )
        evaluated = dict(arms.evaluations(step, 1))
        assert evaluated.keys() == names | {"none", "none_with_steps"}
        before = scorer.cache_stats
        evaluated["sync_cold"](step_batch(PAIRS, 3, 1))
        middle = scorer.cache_stats
        assert (middle.hits - before.hits, middle.misses - before.misses) == (0, 3)
        evaluated["thread_warm"](step_batch(PAIRS, 3, 1))
        assert scorer.cache_stats.misses == middle.misses
