"""More positions and less vocabulary leave what the network computes on known texts as it was."""

from dataclasses import replace

import pytest
import tiny_models
import torch
from town import BRIDGE, RIVER, line

from quals_fast import DecodingConfig, QualsScorer
from quals_fast.training.qagen.encoding import Pair
from quals_fast.training.qagen.network import Collator, token_nats
from quals_fast.training.qagen.resizing import used_tokens
from quals_fast.training.qagen.settings import TrainingError
from quals_fast.training.qagen.starting_point import load_starting_point

SMALL = DecodingConfig(num_beams=4, num_beam_groups=4, min_length=2, max_length=12)


def logits(start, source, target):
    """Return the distributions over the tokens of a target, by token text."""
    ids = [[start.tokenizer.token_to_id(word) for word in text] for text in (source, target)]
    network = start.network.eval()
    with torch.inference_mode():
        found = network.model(
            input_ids=torch.tensor(ids[:1]), decoder_input_ids=torch.tensor(ids[1:])
        ).last_hidden_state
        return network.lm_head(found)[0] + network.final_logits_bias


def test_texts_of_used_tokens_keep_their_tokens_and_their_logits(settings):
    texts = ["queen anne opened the bridge .", "who won ? anne"]
    whole = load_starting_point(settings, print, [])
    lines = []
    small = load_starting_point(replace(settings, prune=True), lines.append, texts)
    count = small.conventions.vocab_size
    assert lines == [f"{count} tokens are left in the vocabulary"]
    assert count < whole.conventions.vocab_size - 20
    assert len(used_tokens(whole.tokenizer, texts)) < count
    for text in texts:
        one, other = (start.tokenizer.encode(text).tokens for start in (whole, small))
        assert one == other
    for name in ("bos", "eos", "pad", "sep", "decoder_start", "forced_bos"):
        one, other = (
            start.tokenizer.id_to_token(getattr(start.conventions, f"{name}_token_id"))
            for start in (whole, small)
        )
        assert one == other is not None
    # A text with a word that is gone is still tokenised.
    assert "[UNK]" in small.tokenizer.encode("the river").tokens
    kept = [whole.tokenizer.token_to_id(small.tokenizer.id_to_token(i)) for i in range(count)]
    source, target = "queen anne opened".split(), "who won".split()
    before, after = (logits(start, source, target) for start in (whole, small))
    torch.testing.assert_close(after, before[:, kept], atol=1e-5, rtol=1e-5)


def test_a_new_separator_is_kept(settings, tmp_path):
    """It has no row in the embeddings yet: the network grows by one behind the pruned ones."""
    config = {name: value for name, value in tiny_models.CONFIG.items() if name != "sep_token_id"}
    folder = tiny_models.write_checkpoint(tmp_path / "bart", config)
    own = replace(settings, init=str(folder), sep_token="<qa>", prune=True)
    start = load_starting_point(own, print, ["queen anne"])
    size = start.conventions.vocab_size
    assert start.tokenizer.token_to_id("<qa>") == start.conventions.sep_token_id == size - 1
    assert start.network.lm_head.weight.shape[0] == start.tokenizer.get_vocab_size() == size
    assert start.tokenizer.encode("queen anne").tokens == ["queen", "anne"]


def test_a_run_keeps_the_tokens_of_answers_that_no_text_has(run, write, settings):
    path = write("a.jsonl", [line("Queen Anne won.", "river"), line("Anne won.", "Anne")])
    run(train=(path,), prune=True, absent_answers="keep", examples=4)
    tokenizer = load_starting_point(
        replace(settings, init=str(settings.output)), print, []
    ).tokenizer
    assert tokenizer.encode("river").tokens == ["river"]
    assert tokenizer.encode("tower").tokens == ["[UNK]"]


def test_a_run_with_less_vocabulary_goes_on_and_scores(run, settings):
    lines, _ = run(prune=True, examples=6)
    assert any("tokens are left in the vocabulary" in line for line in lines)
    lines, found = run(prune=True, examples=12)
    assert any("resuming from" in line for line in lines)
    assert found["examples"] == 12
    scorer = QualsScorer.from_pretrained(settings.output, device="cpu", decoding=SMALL)
    result = scorer.score([BRIDGE], [RIVER])
    assert result[0].status in ("ok", "no_pairs")


def test_only_word_pieces_can_be_taken_out(settings, tmp_path):
    folder = tiny_models.write_checkpoint(
        tmp_path / "bpe", tiny_models.FAIRSEQ_LIKE, tiny_models.byte_level_tokenizer()
    )
    with pytest.raises(TrainingError, match="`prune` needs a WordPiece vocabulary"):
        load_starting_point(replace(settings, init=str(folder), prune=True), print, ["a"])


def test_new_positions_start_as_copies_and_change_nothing_on_short_texts(settings):
    plain = load_starting_point(settings, print, [])
    long = load_starting_point(replace(settings, positions=100), print, [])
    assert long.conventions.max_source_tokens == 100
    for part in ("encoder", "decoder"):
        before, after = (
            getattr(start.network.model, part).embed_positions.weight for start in (plain, long)
        )
        assert len(after) == 102
        assert torch.equal(after[:66], before)
        assert torch.equal(after[66:], before[2:38])
    pairs = [Pair([3, 8, 9, 4], [3, 8, 1, 9, 4])]
    batch = Collator(plain.conventions.pad_token_id)(pairs)
    one, other = (token_nats(start.network.eval(), *batch.values()) for start in (plain, long))
    assert torch.equal(one, other)


def test_a_run_uses_its_new_positions(run, settings):
    _, found = run(positions=90, examples=6)
    assert found["steps_done"] > 0
    cut = {}
    for folder in (settings.init, settings.output):
        scorer = QualsScorer.from_pretrained(folder, device="cpu", decoding=SMALL)
        cut[folder] = scorer.score(["river " * 85], [BRIDGE])[0].truncated_tokens
    assert cut == {settings.init: 27, settings.output: 0}


def test_fewer_positions_are_refused(settings):
    with pytest.raises(TrainingError, match="`positions` must be at least the 64 that the model"):
        load_starting_point(replace(settings, positions=10), print, [])
