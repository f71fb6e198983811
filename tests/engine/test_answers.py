# ruff: noqa: RUF001 (letters that look alike are what it is about)
"""Where answers occur in the summary as given, whatever the tokenizer makes of its letters."""

from dataclasses import replace
from functools import cache

import pytest
import tiny_models
import tiny_t5
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers

from quals_fast.engine.answers import answer_spans, needs_places, spelled_letters
from quals_fast.engine.filtering import pairs_about
from quals_fast.models.checkpoint import read_checkpoint, read_tokenizer
from quals_fast.models.loading import model_folder
from quals_fast.models.tokenizer import QATokenizer
from quals_fast.results import Hypothesis

SEP, EOS, PAD = 900_003, 900_002, 900_001
WORDS = [
    "queen", "Anne", "ANNE", "1962", "U.S.", "don't", "the", "he",
    "café", "cafe\u0301", "Ange\u0301lica", "İstanbul", "istanbul", "DIŞİ",
    "Straße", "GROẞ", "Σίσυφος", "ΟΔΟΣ",
    "ﬁve", "five", "oﬃce", "Ｑｕｅｅｎ", "１９６２", "¹⁹⁶²", "𝐪𝐮𝐞𝐞𝐧",
    "北京", "東京都", "カフェ", "ｶﾌｪ", "ไทย", "서울에서", "서울", "한", "السَّلام", "سلام", "שָׁלוֹם",
    "👩\u200d👩\u200d👧", "🇬🇧", "☕\ufe0f", "a\u200db", "x\u00ady", "é\u0323",
]  # fmt: skip
GAPS = [" ", "  ", ", ", "\n", "\r\n", "\t", "\u3000", "\u00a0", "\u200b ", "-", "", " (", "\ufeff"]


def unigram():
    """Return T5's kind of tokenizer over all letters that WORDS have when normalised."""
    normalizer = normalizers.Precompiled(tiny_t5.charsmap())
    words = {normalizer.normalize_str(word) for word in WORDS}
    letters = {*"".join(words), *"▁,-().'"} - {"👩", "東"}
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces += [(letter, -8.0) for letter in sorted(letters)]
    pieces += [(piece, -4.0) for piece in ("▁queen", "▁five", "een", "▁カフェ", "ice", "éa", "196")]
    tokenizer = tiny_t5.as_sentencepiece(models.Unigram(pieces, unk_id=2, byte_fallback=False))
    tokenizer.add_special_tokens([AddedToken(one, normalized=False) for one in ("<pad>", "</s>")])
    return tokenizer


def composing() -> Tokenizer:
    """Return a byte-level BPE that changes texts before it looks for tokens."""
    tokenizer = tiny_models.byte_level_tokenizer()
    tokenizer.normalizer = normalizers.NFKC()
    return tokenizer


KINDS = {
    "WordPiece": lambda: read_tokenizer(model_folder("qagen-mini")),
    "byte-level BPE": tiny_models.byte_level_tokenizer,
    "byte-level BPE, NFKC": composing,
    "Unigram": unigram,
}


@cache
def build(kind, answer_match=None):
    """Return a tokenizer and conventions with ids that no text has."""
    _, conventions = read_checkpoint(model_folder("qagen-mini"))
    conventions = replace(
        conventions,
        sep_token_id=SEP,
        eos_token_id=EOS,
        pad_token_id=PAD,
        answer_match=answer_match,
    )
    return QATokenizer(KINDS[kind](), conventions), conventions


def spans_of(kind, summary, answer, answer_match=None):
    """Return where an answer is found; None if the filter does not find it."""
    tokenizer, conventions = build(kind, answer_match)
    source, spelling = tokenizer.encode([summary, answer], with_places=needs_places(tokenizer))
    ids = (*tokenizer.encode(["who"])[0].text_ids, SEP, *spelling.text_ids, EOS)
    hypothesis = Hypothesis(
        token_ids=ids, logprobs=(), search_logprobs=(), search_sum=0.0, search_score=0.0
    )
    kept = pairs_about([hypothesis], source, tokenizer, conventions)
    return answer_spans(kept, source, tokenizer, conventions)[0] if kept else None


def found(kind, summary, answer, answer_match=None):
    """Return the texts under the ranges."""
    spans = spans_of(kind, summary, answer, answer_match)
    return None if spans is None else [summary[start:end] for start, end in spans]


def normalised(kind, text):
    """Return what an answer in a text is compared with."""
    tokenizer, _ = build(kind)
    (source,) = tokenizer.encode([text])
    if tokenizer.answer_match == "ids":
        return list(source.text_ids)
    return tokenizer.spelled(source).lower().strip()


pieces = st.tuples(st.sampled_from(WORDS), st.sampled_from(GAPS))


@pytest.mark.parametrize("kind", KINDS)
@given(
    before=st.lists(pieces, max_size=4),
    answer=st.lists(pieces, min_size=1, max_size=3),
    after=st.lists(pieces, max_size=4),
)
@example(before=[("İstanbul", " ")], answer=[("queen", " ")], after=[("Anne", "")])
@example(before=[("cafe\u0301", " ")], answer=[("cafe\u0301", " ")], after=[("ﬁve", " ")])
@settings(max_examples=60, deadline=None)
def test_the_text_under_a_range_is_the_answer(kind, before, answer, after):
    start = "".join(word + gap for word, gap in before)
    own = "".join(word + gap for word, gap in answer[:-1]) + answer[-1][0]
    rest = answer[-1][1] + "".join(word + gap for word, gap in after)
    summary = start + own + rest
    spans = spans_of(kind, summary, own)
    if spans is None:  # with unknown letters, or cut otherwise where there is no gap
        return
    assert list(spans) == sorted(set(spans))
    expected = normalised(kind, own)
    for a, b in spans:
        assert normalised(kind, summary[a:b]) == expected
    if start[-1:].isspace() and rest[:1].isspace():
        assert (len(start), len(start) + len(own)) in spans


@pytest.mark.parametrize("kind", ["byte-level BPE, NFKC", "Unigram"])
@given(st.lists(pieces, max_size=6))
@settings(max_examples=60, deadline=None)
def test_letters_with_ranges_are_those_that_the_filter_sees(kind, words):
    tokenizer, _ = build(kind)
    text = "".join(word + gap for word, gap in words)
    (source,) = tokenizer.encode([text], with_places=True)
    letters = [*spelled_letters(source, tokenizer)]
    assert "".join(letter for letter, _ in letters) == tokenizer.spelled(source)
    assert all(0 <= a <= b <= len(text) for _, (a, b) in letters)
    assert letters == sorted(letters, key=lambda one: one[1][0])


def test_tokens_that_spell_no_text_by_themselves_give_no_spans(monkeypatch):
    monkeypatch.setattr(QATokenizer, "added_text", lambda self, ids, is_first: "two")
    assert spans_of("Unigram", "queen Anne", "queen") == ()


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_that_occurs_twice_belongs_to_both_places(kind):
    summary = "Queen Anne, said Anne \u2019s anne"
    assert found(kind, summary, "anne") == ["Anne", "Anne", "anne"]
    assert spans_of(kind, summary, "anne") == ((6, 10), (17, 21), (25, 29))


@pytest.mark.parametrize("kind", ["byte-level BPE", "byte-level BPE, NFKC", "Unigram"])
@pytest.mark.parametrize(
    ("summary", "answer", "expected"),
    [
        pytest.param("he gave the other 1 of 1962", "he", [(0, 2)], id="letters"),
        pytest.param("in 1962 1 was 21", "1", [(8, 9)], id="digits"),
        pytest.param("the other", "he", [(1, 3), (6, 8)], id="nowhere else"),
        pytest.param("cafe\u0301 cafe", "cafe", [(6, 10)], id="a mark is of the word"),
        pytest.param("北京，北京市", "北京", [(0, 2), (3, 5)], id="a script without spaces"),
    ],
)
def test_inside_a_longer_word_an_answer_counts_only_if_it_is_nowhere_else(
    kind, summary, answer, expected
):
    assert spans_of(kind, summary, answer) == tuple(expected)


@pytest.mark.parametrize(
    ("kind", "summary", "answer", "expected"),
    [
        pytest.param("WordPiece", "Cafe\u0301!", "cafe", "Cafe\u0301", id="a mark that is dropped"),
        pytest.param("byte-level BPE", "İİ İzmir", "i̇zmir", "İzmir", id="a longer lower case"),
        pytest.param("byte-level BPE", "İzmir", "i̇z", "İz", id="a part of one"),
        pytest.param("Unigram", "oﬃce", "ice", "ﬃce", id="a part of a ligature"),
        pytest.param("Unigram", "１９６２", "62", "６２", id="a part of a token"),
        pytest.param("Unigram", "é\u0323a", "a", "a", id="a part of a token with marks"),
        pytest.param("Unigram", "👩 queen 東 five", "five", "five", id="behind unknown letters"),
    ],
)
def test_letters_that_tokenizers_change(kind, summary, answer, expected):
    assert found(kind, summary, answer) == [expected]


@pytest.mark.parametrize(
    ("kind", "answer_match", "answer"),
    [
        ("WordPiece", "text", "queen"),
        ("byte-level BPE", "ids", "Queen"),
        ("byte-level BPE", "ids", " Queen "),
        ("byte-level BPE", "text", " queen "),
    ],
)
def test_the_config_may_choose_what_is_looked_up(kind, answer_match, answer):
    assert found(kind, "by Queen Anne.", answer, answer_match) == ["Queen"]


@pytest.mark.parametrize("kind", KINDS)
def test_in_texts_that_are_tokenised_piece_by_piece(kind):
    summary = "the cafe\u0301 of 1962, " * 700 + "by Queen Anne"
    assert spans_of(kind, summary, "Anne") == ((len(summary) - 4, len(summary)),)
