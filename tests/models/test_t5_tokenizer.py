"""SentencePiece tokenizers, T5's own and a BPE, which change texts: what is found, and unknown."""

import json
from array import array
from io import StringIO

import pytest
import tiny_t5
from model_folders import change_json, fails, load
from rich.console import Console
from transformers import T5Tokenizer

from quals_fast import DecodingConfig, QualsScorer
from quals_fast.engine.filtering import pairs_about
from quals_fast.pages.explain import ExplainedRow, render_terminal
from quals_fast.reference.quals import ReferenceScorer
from quals_fast.results import Hypothesis

SUMMARY = "queen anne opened the tower by the river in 1969 , forty won"
DOCUMENT = "the queen opened the bridge in 1962 . forty lives was lost ."
SMALL = DecodingConfig(num_beams=12, num_beam_groups=12, min_length=2, max_length=12)


TOKENIZERS = {"Unigram": tiny_t5.unigram_tokenizer, "BPE": tiny_t5.bpe_tokenizer}


@pytest.fixture(scope="module", params=TOKENIZERS)
def trained(request, tmp_path_factory):
    """Return the folder of a T5 that was trained to generate pairs about SUMMARY."""
    folder, tokenizer = tmp_path_factory.mktemp("t5") / "tiny-t5", TOKENIZERS[request.param]()
    return tiny_t5.write_t5(folder, tokenizer=tokenizer, trained_on=SUMMARY)


@pytest.fixture(scope="module")
def model(trained):
    return load(trained)


@pytest.fixture(scope="module")
def scorer(trained):
    return QualsScorer.from_pretrained(trained, device="cpu", decoding=SMALL)


def wide(text):
    """The same text in full-width letters."""
    return "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text)


# Spellings of SUMMARY that its tokens do not tell apart.
SPELLINGS = {
    "full-width": wide(SUMMARY),
    "no-break spaces": SUMMARY.replace(" ", "\u00a0"),
    "ideographic spaces": SUMMARY.replace(" ", "\u3000"),
    "double spaces": f"  {SUMMARY.replace(' ', '  ')}  ",
    "lines and tabs": SUMMARY.replace(" the ", "\tthe\n"),
    "zero-width spaces": SUMMARY.replace(" ", "\u200b"),
    "byte-order mark": f"\ufeff{SUMMARY}",
    "mathematical letters": SUMMARY.replace(
        "queen", "\U0001d42a\U0001d42e\U0001d41e\U0001d41e\U0001d427"
    ),
    "superscripts": SUMMARY.replace("1969", "\u00b9\u2079\u2076\u2079"),
}


@pytest.mark.parametrize("trained", ["Unigram"], indirect=True)
def test_it_is_built_as_transformers_builds_it(model):
    tokenizer = tiny_t5.unigram_tokenizer()
    vocab = [tuple(pair) for pair in json.loads(tokenizer.to_str())["model"]["vocab"]]
    theirs = T5Tokenizer(
        vocab=vocab, _spm_precompiled_charsmap=tiny_t5.charsmap(), sep_token="<sep>"
    )
    parts = [json.loads(t.to_str()) for t in (tokenizer, theirs.backend_tokenizer)]
    for part in ("normalizer", "pre_tokenizer", "decoder"):
        assert parts[0][part] == parts[1][part]
    assert theirs.convert_tokens_to_ids(["<pad>", "</s>", "<unk>"]) == [0, 1, 2]
    texts = [SUMMARY, *SPELLINGS.values(), "Ann\u00e9 \u2603 won \ufb01ve"]
    for text, source in zip(texts, model.tokenizer.encode(texts), strict=True):
        expected = theirs(text, truncation=True, max_length=40).input_ids
        assert source.input_ids == expected


@pytest.mark.parametrize(
    ("text", "spelled"),
    [
        ("the \ufb01ve \ufb00", "the five ff"),
        ("won\u2026 1\u00a0962", "won... 1 962"),
        ("ri\u200bver", "ri ver"),
        ("in  1969", "in 1969"),
        ("queen \u2603 anne", "queen \0 anne"),
        ("\u2603queen\u2603anne", "\0queen\0anne"),
        ("caf\u00e9 a", "caf\0 a"),
        ("cafe\u0301 a", "caf\0 a"),
        ("\u9648\u4f1f won", "\0 won"),
        ("to\u00adwn", "to\0wn"),
        ("</s> <sep>", "\0s\0\0sep"),
    ],
    ids=ascii,
)
def test_a_summary_is_spelled_as_its_tokens_say(model, text, spelled):
    (source,) = model.tokenizer.encode([text])
    parts = [part.strip() for part in model.tokenizer.spelled(source).split("\0")]
    assert parts == [part.strip() for part in spelled.split("\0")]


@pytest.mark.parametrize("name", SPELLINGS)
def test_other_spellings_have_the_same_pairs(scorer, name):
    plain, other = (
        scorer.score([SUMMARY, DOCUMENT], [SUMMARY] * 2),
        scorer.score([SPELLINGS[name], DOCUMENT], [SPELLINGS[name]] * 2),
    )
    assert len(plain[0].pairs) >= 3
    for expected, found in zip(plain, other, strict=True):
        assert found.status == "ok"
        assert found.score == pytest.approx(expected.score, abs=1e-6)
        assert [p.token_ids for p in found.pairs] == [p.token_ids for p in expected.pairs]
        assert found.unknown_tokens == 0


def test_the_reference_agrees(trained, scorer):
    texts = [SPELLINGS["full-width"], f"{SUMMARY} \u2603", DOCUMENT]
    expected = ReferenceScorer(trained, decoding=SMALL).score(texts, texts)
    for row, found in zip(expected, scorer.score(texts, texts), strict=True):
        assert found.score == pytest.approx(row.score, abs=1e-5)
        assert [p.token_ids for p in found.pairs] == [p.token_ids for p in row.pairs]


def test_special_tokens_inside_a_text_are_text(model):
    for text in ("</s>", "<pad>", "<unk>", "<extra_id_7>", "<sep>", "a</s>"):
        (source,) = model.tokenizer.encode([f"{text} won"])
        others = {*source.text_ids} - {model.tokenizer.unknown_token_id}
        pieces = model.tokenizer.readable_tokens(tuple(others))
        assert not any(piece.startswith("<") for piece in pieces), text
        assert source.unknown_tokens >= 2  # the brackets
        assert source.input_ids == [*source.text_ids, 1]


# Unknown characters


def kept(model, answer, summary):
    """Return the answers that are kept of one hypothesis."""
    tokenizer, conventions = model.tokenizer, model.conventions
    question, answered, about = (s.text_ids for s in tokenizer.encode(["who won", answer, summary]))
    ids = (*question, conventions.sep_token_id, *answered, conventions.eos_token_id)
    zeros = (0.0,) * len(ids)
    hypothesis = Hypothesis(
        token_ids=ids, logprobs=zeros, search_logprobs=zeros, search_sum=0.0, search_score=0.0
    )
    (source,) = tokenizer.encode([summary])
    assert source.text_ids == about
    return [pair.answer for pair in pairs_about([hypothesis], source, tokenizer, conventions)]


@pytest.mark.parametrize(
    ("answer", "summary", "found"),
    [
        ("queen anne", "queen anne won", ["queen anne"]),
        ("queen\u00a0anne", "queen  anne won", ["queen anne"]),
        ("\uff11\uff19\uff16\uff19", "in 1969", ["1969"]),
        ("1969", "in \uff11\uff19\uff16\uff19", ["1969"]),
        ("\ufb01ve", "five won", ["five"]),
        ("queen anne", "queen \u2603 anne won", []),
        ("queen anne", "queen\u2603anne won", []),
        ("\u9648\u4f1f", "\u738b\u82b3 won", []),
        ("\u9648\u4f1f", "\u9648\u4f1f won", []),
        ("anne \u2603", "anne \u2603 won", []),
        ("river", "ri\u200bver", []),
    ],
    ids=ascii,
)
def test_answers_are_found_only_where_the_tokens_say_so(model, answer, summary, found):
    assert kept(model, answer, summary) == found


@pytest.mark.parametrize(
    ("text", "unknown", "is_read"),
    [
        ("queen \u2603 anne", 1, True),
        ("queen \u2603", 1, True),
        ("\u2603 \u2603 queen", 2, False),
        ("\u9648\u4f1f", 1, False),
        ("\u9648 \u4f1f \u738b", 3, False),
        ("\u9648\u4f1f\u3002\u738b\u82b3 queen \u3002 \u738b", 3, False),
    ],
    ids=ascii,
)
def test_a_text_of_unknown_characters_has_no_score(trained, scorer, text, unknown, is_read):
    for kind in (scorer, ReferenceScorer(trained, decoding=SMALL)):
        as_document, as_summary = kind.score([text, SUMMARY], [SUMMARY, text])
        for row in (as_document, as_summary):
            assert row.unknown_tokens == unknown
            assert (row.status != "unknown_text") == is_read
        assert not as_summary.pairs or is_read


def test_a_page_shows_what_the_model_read(scorer):
    odd = f"{wide(SUMMARY)} \u2603"
    (row,) = scorer.score([odd], [odd])
    assert row.status == "ok" and row.unknown_tokens == 2
    for pair in row.pairs:
        assert "<unk>" not in pair.tokens[pair.tokens.index("<sep>") :]
        assert pair.answer in SUMMARY
    page = Console(file=StringIO(), width=120)
    page.print(render_terminal(ExplainedRow(id="1", summary=odd, document=odd, result=row)))
    assert "2 unknown tokens" in page.file.getvalue()


# Lengths and folders


@pytest.mark.parametrize("length", [38, 39, 40, 700])
def test_what_exceeds_the_limit_is_counted(model, scorer, length):
    (source,) = model.tokenizer.encode(["river " * length])
    assert len(source.input_ids) == min(length + 1, 40)
    assert source.input_ids[-1] == 1
    assert source.text_ids == array("i", [source.text_ids[0]] * length)
    assert source.truncated_tokens == max(0, length - 39)
    (row,) = scorer.score(["river " * length], [SUMMARY])
    assert row.truncated_tokens == max(0, length - 39)


def test_no_separator(tmp_path):
    folder = tiny_t5.write_t5(tmp_path / "m")
    change_json(folder / "tokenizer_config.json", sep_token=None)
    fails(folder, "config.json: no `sep_token_id`, and the tokenizer has no `sep_token` that is")
    change_json(folder / "tokenizer_config.json", sep_token="</s>")
    fails(folder, "config.json: no `sep_token_id`, and the tokenizer has no `sep_token` that is")


def test_a_separator_that_the_tokenizer_does_not_know(tmp_path):
    folder = tiny_t5.write_t5(tmp_path / "m")
    change_json(folder / "tokenizer_config.json", sep_token="<SEP>")
    fails(
        folder,
        f"{folder}: the tokenizer's `sep_token` must be one of its tokens, but it has no '<SEP>'",
    )


def test_only_a_sentencepiece_model(tmp_path):
    folder = tiny_t5.write_t5(tmp_path / "m")
    (folder / "tokenizer.json").rename(folder / "spiece.model")
    fails(folder, f"{folder} has a SentencePiece model, spiece.model, but no tokenizer.json; make")
