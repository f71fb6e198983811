"""Scores of a small trained classifier: against an obvious reference, cut, without a score."""

import math
import random
import re
import shutil

import pytest
import tiny_classifiers
import torch
from messages import says
from tiny_classifiers import DOCUMENT, SUMMARY, example

from quals_fast.classifier import ClassifierScorer, SentenceScore
from quals_fast.classifier.sentences import SentenceSplitter

LONG = " ".join([DOCUMENT] * 12)  # 60 tokens, of 45 that two texts may have together


@pytest.fixture(scope="module")
def scorer(folder):
    return ClassifierScorer.from_pretrained(folder, positive="CORRECT", device="cpu")


def obvious(document, sentence):
    """Return the probability of CORRECT of one pair, as FactCC's published code reads it."""
    first, second = document.split(), sentence.split()
    while len(first) + len(second) > tiny_classifiers.CONFIG["max_position_embeddings"] - 3:
        (first if len(first) > len(second) else second).pop()
    words = ["[CLS]", *first, "[SEP]", *second, "[SEP]"]
    ids = [tiny_classifiers.TOKENS.index(word) for word in words]
    segments = [0] * (len(first) + 2) + [1] * (len(second) + 1)
    with torch.no_grad():
        logits = tiny_classifiers.trained_bert()(
            input_ids=torch.tensor([ids]), token_type_ids=torch.tensor([segments])
        ).logits
    return logits.softmax(-1)[0, 0].item()


def test_it_tells_what_the_document_says_from_what_it_does_not(scorer):
    (row,) = scorer.score([DOCUMENT], [SUMMARY])
    assert [pair.label for pair in row.pairs] == ["CORRECT", "INCORRECT"]
    assert row.pairs[0].score > 0.9 and row.pairs[1].score < 0.1
    assert row.score == pytest.approx((row.pairs[0].score + row.pairs[1].score) / 2)
    assert row.worst_pair is row.pairs[1]
    examples = [example(random.Random(i)) for i in range(100)]
    rows = scorer.score([one[0] for one in examples], [one[1] for one in examples])
    labels = [tiny_classifiers.LABELS[one[2]] for one in examples]
    assert [row.pairs[0].label for row in rows] == labels


@pytest.mark.parametrize("max_batch_tokens", [1, 100, None])
def test_it_agrees_with_one_pair_at_a_time(scorer, max_batch_tokens):
    scorer = ClassifierScorer(
        scorer.classifier, positive="CORRECT", max_batch_tokens=max_batch_tokens
    )
    rng = random.Random(1)
    documents = [" ".join(example(rng)[0] for _ in range(1 + i % 12)) for i in range(24)]
    summaries = [" ".join(example(rng)[1] for _ in range(1 + i % 3)) for i in range(24)]
    summaries[5] = summaries[5].replace(" .", " a ") * 6  # one long sentence
    reported = []
    rows = scorer.score(documents, summaries, on_progress=reported.append)
    for document, row in zip(documents, rows, strict=True):
        expected = [obvious(document, pair.sentence) for pair in row.pairs]
        assert [pair.score for pair in row.pairs] == pytest.approx(expected, abs=1e-5)
        assert row.score == pytest.approx(math.fsum(expected) / len(expected), abs=1e-5)
    assert sum(reported) == 24
    assert [len(row.pairs) for row in rows][:3] == [1, 2, 3]


def test_the_other_label(scorer):
    other = ClassifierScorer(scorer.classifier, positive="INCORRECT")
    scores = [one.score([DOCUMENT], [SUMMARY]).scores[0] for one in (scorer, other)]
    assert sum(scores) == pytest.approx(1)
    assert "|positive:INCORRECT|" in other.signature


def test_factcc_is_read_as_its_authors_publish_it(factcc, scorer):
    one = ClassifierScorer.from_pretrained(factcc, metric="factcc", device="cpu")
    result = one.score([DOCUMENT, LONG], [SUMMARY] * 2)
    assert result.signature.startswith("factcc|positive:CORRECT|")
    expected = scorer.score([DOCUMENT, LONG], [SUMMARY] * 2)
    assert result.to_dict()["rows"] == expected.to_dict()["rows"]


@pytest.mark.parametrize(
    ("n_document", "n_sentence", "kept"),
    [(20, 20, (20, 20)), (60, 20, (25, 20)), (60, 22, (23, 22)), (60, 23, (23, 22)),
     (20, 60, (20, 25)), (23, 60, (23, 22)), (24, 60, (23, 22)), (60, 60, (23, 22))],
)  # fmt: skip
def test_the_longer_text_is_cut_and_counted(scorer, n_document, n_sentence, kept):
    document, summary = " ".join(["town"] * n_document), " ".join(["town"] * n_sentence)
    (row,) = scorer.score([document], [summary])
    cut = n_document - kept[0], n_sentence - kept[1]
    assert (row.truncated_tokens, row.pairs[0].truncated_tokens) == (sum(cut), cut[1])
    assert row.cut_sentences == (cut[1] > 0)
    assert row.to_dict().get("cut_sentences", 0) == row.cut_sentences
    assert row.score == pytest.approx(obvious(document, summary), abs=1e-5)


def test_the_cut_of_a_document_is_counted_once(scorer):
    (row,) = scorer.score([LONG], ["queen won . queen won the bridge ."])
    assert [len(pair.sentence.split()) for pair in row.pairs] == [3, 5]
    assert row.truncated_tokens == 60 - (45 - 5)


def test_rows_without_a_score(scorer):
    documents = ["the town", " ", "a town", "the 東 東 東 東", 3, "the town"]
    summaries = ["\u200b\n", "anne", "anne", "anne", "anne", "anne won . "]
    result = scorer.score(documents, summaries)
    statuses = ["empty_summary", "empty_document", "ok", "unknown_text", "error", "ok"]
    assert [row.status for row in result] == statuses
    assert [math.isnan(row.score) for row in result] == [one != "ok" for one in statuses]
    assert result[3].unknown_tokens == 4 and "4 of 5 in the document" in result[3].message
    assert "`document` must be a string" in result[4].message
    assert result.to_dict()["rows"][0]["score"] is None
    assert scorer.score([], []).rows == ()


def test_unknown_tokens_are_counted(scorer):
    (row,) = scorer.score(["the town Zürich won"], ["the town lost . anne closed Zürich ."])
    assert (row.status, row.unknown_tokens) == ("ok", 2)


def test_special_tokens_in_a_text_are_text(scorer):
    (row,) = scorer.score(["the town [SEP] won"], ["anne won [SEP] a game"])
    assert row.unknown_tokens == 6  # "[", "sep" and "]", twice


def test_nan_is_an_error_of_its_row(folder):
    scorer = ClassifierScorer.from_pretrained(folder, positive="CORRECT", device="cpu")
    embeddings = scorer.classifier.network.bert.embeddings.word_embeddings
    embeddings.weight[tiny_classifiers.TOKENS.index("1969")] = math.inf
    result = scorer.score([DOCUMENT] * 2, ["queen won in 1969 .", SUMMARY])
    assert [row.status for row in result] == ["error", "ok"]
    assert re.search(says("returned NaN … use dtype='float32'"), result[0].message)


def test_wrong_calls(folder, scorer):
    with pytest.raises(ValueError, match=says("same length, but got 1 and 2")):
        scorer.score([DOCUMENT], [SUMMARY] * 2)
    with pytest.raises(TypeError, match=says("`summaries` must be a list of strings, but got str")):
        scorer.score([DOCUMENT], SUMMARY)
    with pytest.raises(ValueError, match="`include_spans` is for QUALS"):
        scorer.score([DOCUMENT], [SUMMARY])[0].to_dict(include_spans=True)
    for arguments, message in [
        ({"dtype": "mixed"}, "`dtype` must be one of auto, float32 … but got 'mixed'"),
        ({"metric": "dae"}, "`metric` must be one of classifier, factcc, but got 'dae'"),
        ({"max_batch_tokens": 0}, "`max_batch_tokens` must be at least 1, but got 0"),
        ({"device": "tpu"}, "`device` must be … but got 'tpu'"),
    ]:
        with pytest.raises(ValueError, match=says(message)):
            ClassifierScorer.from_pretrained(folder, positive="CORRECT", **arguments)


def test_the_signature_tells_classifiers_apart(folder, own_folder, scorer):
    assert scorer.signature.startswith("classifier|positive:CORRECT|sentences:spacy-")
    assert "|positions:48|model:small@" in scorer.signature
    (own_folder / "tokenizer_config.json").write_text('{"model_max_length": 40}')
    own = ClassifierScorer.from_pretrained(own_folder, positive="CORRECT", dtype="bfloat16")
    assert "|positions:40|model:own@" in own.signature and "|dtype:bfloat16|" in own.signature
    digests = [one.classifier.digest for one in (scorer, own)]
    assert len(set(digests)) == 2


def test_no_room_for_two_texts(own_folder):
    (own_folder / "tokenizer_config.json").write_text('{"model_max_length": 4}')
    with pytest.raises(ValueError, match=says("room for two texts, but reads only 4 tokens")):
        ClassifierScorer.from_pretrained(own_folder, positive="CORRECT")


def test_a_decoder_whose_config_has_no_padding(folder, tmp_path):
    from transformers import GPT2Config, GPT2ForSequenceClassification

    config = GPT2Config(
        vocab_size=45, n_positions=48, n_embd=16, n_layer=1, n_head=2, pad_token_id=None
    )
    GPT2ForSequenceClassification(config).save_pretrained(tmp_path / "gpt2")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(folder / name, tmp_path / "gpt2")
    scorer = ClassifierScorer.from_pretrained(tmp_path / "gpt2", positive="LABEL_1", device="cpu")
    texts = [DOCUMENT, f"{DOCUMENT} {DOCUMENT}"], ["queen won .", SUMMARY]
    alone = [scorer.score([one], [other]).scores[0] for one, other in zip(*texts, strict=True)]
    assert scorer.score(*texts).scores == pytest.approx(alone, abs=1e-6)


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("Anne won. The town lost!", ["Anne won.", "The town lost!"]),
        ('Mr. J. Lee of the U.S. Army said "go." He left.',
         ['Mr. J. Lee of the U.S. Army said "go."', "He left."]),
        ("It costs $3.5 million\nin all", ["It costs $3.5 million", "in all"]),
        ("Anne won. \n \n ... \n", ["Anne won."]),
        (" ... ", ["..."]),
        ("won", ["won"]),
    ],
)  # fmt: skip
def test_sentences(text, sentences):
    assert SentenceSplitter().split(text) == sentences


def test_a_sentence_is_a_pair_of_any_metric():
    one = SentenceScore(sentence="Anne won.", label="CORRECT", score=0.75)
    assert (one.question, one.answer) == ("Anne won.", "CORRECT")
    assert one.to_dict() == {
        "sentence": "Anne won.", "label": "CORRECT", "score": 0.75, "truncated_tokens": 0,
    }  # fmt: skip
