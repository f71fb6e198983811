# ruff: noqa: RUF001 (look-alike letters are what it is about)
"""No number where the model cannot know one: unknown tokens are no agreement, in any engine."""

import json
import random
from pathlib import Path

import pytest
import torch
from engines import in_fixed_shapes
from tokenizers import Tokenizer

from quals_fast import DecodingConfig, QualsScorer
from quals_fast.decoding.rules import Hypotheses
from quals_fast.engine.filtering import keep_pairs
from quals_fast.engine.selection import PairSelector
from quals_fast.export.exporter import export
from quals_fast.export.single_file import STATUSES, export_single_file, feeds
from quals_fast.exported.session import Graph, resolve_provider
from quals_fast.models.loading import model_folder
from quals_fast.ops import EAGER
from quals_fast.reference import quals as reference
from quals_fast.reference.quals import ReferenceScorer
from quals_fast.reference.tolerances import QUALS
from quals_fast.results import Hypothesis

GOLDEN = json.loads(
    (Path(__file__).parent.parent / "golden" / "unknown_tokens.json").read_text("utf-8")
)
SMALL = DecodingConfig(num_beams=8, num_beam_groups=8)


# Records made by hand


@pytest.fixture(scope="module")
def model(tiny_folder):
    return reference.ReferenceModel(tiny_folder)


@pytest.mark.parametrize("record", GOLDEN["selections"], ids=lambda record: record["name"])
def test_selections_made_by_hand(model, record):
    tokenizer, conventions = model.checkpoint.tokenizer, model.checkpoint.conventions
    vocabulary = tokenizer._tokenizer.get_vocab()
    hypotheses = [
        Hypothesis(
            token_ids=tuple(vocabulary.get(token, 2) for token in tokens.split()),
            logprobs=(),
            search_logprobs=(),
            search_sum=total,
            search_score=total,
        )
        for tokens, total in record["hypotheses"]
    ]
    summary = record["summary"]
    (source,) = tokenizer.encode([summary])

    kept = [index for index, *_ in reference.keep(model, summary, hypotheses, None)]
    assert kept == record["kept"]

    pairs = keep_pairs(hypotheses, source, tokenizer, conventions, None)
    assert [hypotheses.index(pair.hypothesis) for pair in pairs] == record["kept"]

    selector = PairSelector(tokenizer, conventions, torch.device("cpu"), EAGER.span_match)
    summaries = selector.encode_summaries([source])
    order, n_kept, unsure = selector.select(as_tensors(hypotheses), summaries, None)
    assert not unsure
    assert order[0, : int(n_kept)].tolist() == record["kept"]


def as_tensors(hypotheses):
    """Put one summary's hypotheses into tensors; log-probabilities do not matter here."""
    lengths = torch.tensor([[len(h.token_ids) for h in hypotheses]])
    ids = torch.zeros(1, len(hypotheses), int(lengths.max()), dtype=torch.int64)
    for row, hypothesis in enumerate(hypotheses):
        ids[0, row, : len(hypothesis.token_ids)] = torch.tensor(hypothesis.token_ids)
    sums = torch.tensor([[h.search_sum for h in hypotheses]])
    zeros = torch.zeros(ids.shape)
    return Hypotheses(ids, lengths, zeros, zeros, sums, sums.double())


@pytest.mark.parametrize("record", GOLDEN["texts"], ids=lambda record: ascii(record["summary"]))
def test_statuses_made_by_hand(tiny_folder, record):
    decoding = DecodingConfig(num_beams=2, num_beam_groups=2, max_length=8)
    texts = [record["document"]], [record["summary"]]
    for kind in (ReferenceScorer, QualsScorer.from_pretrained):
        (row,) = kind(tiny_folder, decoding=decoding).score(*texts)
        if record["status"] is None:
            assert row.status in ("ok", "no_pairs")
        else:
            assert (row.status, row.score != row.score) == (record["status"], True)
        assert row.unknown_tokens == record["unknown_tokens"]


# The bundled model on texts of all kinds


NAMED = {
    "right": ("The prize went to 陈伟 of Harrowby School.",) * 2,
    "wrong": (
        "The prize went to 陈伟 of Harrowby School.",
        "The prize went to 张敏 of Harrowby School.",
    ),
    "thumb-down": (
        "Dana Pryce answered the board with a single 👍 and left the room.",
        "Dana Pryce answered the board with 👎.",
    ),
    "m2-for-m3": (
        "The tank at Corley farm holds 30 m³ of water.",
        "The tank at Corley farm holds 30 m² of water.",
    ),
}
UNREADABLE = {
    "zh": (
        "市议会星期二投票决定关闭旧游泳池。议员说维修费用为二百四十万英镑。",
        "昨天足球队赢得比赛，球员非常高兴。",
    ),
    "ja": ("町議会は火曜日、古いプールを閉鎖することを決めた。", "彼女は新しい車を買った。"),
    "th": ("สภาเมืองลงมติปิดสระว่ายน้ำเก่าในวันอังคาร", "ทีมฟุตบอลชนะการแข่งขัน"),
    "emoji": ("😀😀😀", "💀💀"),
    "x-against-y": ("x" * 300, "y" * 300),
    "full-width": ("Ｔｈｅ ｐｏｏｌ ｃｌｏｓｅｄ", "Ｎｏ ｒａｉｎ"),
}


@pytest.fixture(scope="module")
def scorer():
    return QualsScorer.from_pretrained("qagen-mini", device="cpu", dtype="float32", decoding=SMALL)


@pytest.fixture(scope="module")
def fused(scorer):
    """The pass of a GPU, on the CPU."""
    return in_fixed_shapes(scorer)


@pytest.fixture(scope="module")
def count():
    """Count unknown tokens by the tokenizer's own words for them, of the text as a whole."""
    tokenizer = Tokenizer.from_file(str(model_folder("qagen-mini") / "tokenizer.json"))
    tokenizer.encode_special_tokens = True
    return lambda text: tokenizer.encode(text, add_special_tokens=False).tokens.count("[UNK]")


def check(row, document, summary, scorer, count):
    """Check what holds of any row, whatever its texts are."""
    unknown = scorer.engine.model.tokenizer.unknown_token_id
    sep = scorer.engine.model.conventions.sep_token_id
    if row.status in ("ok", "no_pairs", "unknown_text"):
        assert row.unknown_tokens == count(document) + count(summary)
    assert (row.status == "ok") == (row.score == row.score) == bool(row.pairs)
    for pair in row.pairs:
        assert unknown not in pair.token_ids[pair.token_ids.index(sep) :]
        assert "[UNK]" not in pair.answer


def test_unknown_names_are_no_agreement(scorer, fused, count):
    documents, summaries = zip(*NAMED.values(), strict=True)
    for engine in (scorer, fused):
        for row, *texts in zip(
            engine.score(list(documents), list(summaries)), documents, summaries, strict=True
        ):
            check(row, *texts, engine, count)
            assert row.unknown_tokens > 0


def test_texts_in_unknown_scripts_have_no_score(scorer, count):
    documents, summaries = zip(*UNREADABLE.values(), strict=True)
    for row, *texts in zip(
        scorer.score(list(documents), list(summaries)), documents, summaries, strict=True
    ):
        check(row, *texts, scorer, count)
        assert row.status == "unknown_text"
        assert "are unknown to the model" in row.message


WORDS = (
    "The pool closed on Tuesday said Jane Ashworth of Corley council 12 two million £ won".split()
)
SCRIPTS = [
    "陈伟",
    "张敏",
    "プール",
    "สระว่ายน้ำ",
    "مجلس",
    "בריכה",
    "совет",
    "समिति",
    "Ｎｏ",
    "ⅷ",
    "ǆ",
]
EMOJI = ["👍", "👎🏽", "👩\u200d🚀", "🏳️", "💀"]
CONTROLS = [
    "\x01",
    "\x1b[31m",
    "\x85",
    "\u200b",
    "\ufeff",
    "\u00ad",
    "\u2028",
    "\ue000",
    "\ufffd",
    "\u0301",
]
MARKUP = [
    "<b>",
    "</s>",
    "[UNK]",
    "[SEP]",
    "&amp;",
    "{{x}}",
    "```",
    "https://a.b/c?d=e",
    "x" * 120,
    "\0",
]
MIXES = [
    WORDS,
    WORDS + SCRIPTS,
    WORDS + SCRIPTS + EMOJI + CONTROLS + MARKUP,
    SCRIPTS,
    CONTROLS,
    EMOJI,
]


def random_pair(number):
    """Draw a document and a summary that shares about half of its words."""
    draw = random.Random(number)
    kinds = draw.choice(MIXES)
    words = draw.choices(kinds, k=draw.randint(0, 30))
    others = draw.choices(kinds, k=draw.randint(0, 6))
    summary = draw.sample(words, k=len(words) // 2) + others
    joint = draw.choice([" ", " ", " ", "", "\n"])
    return joint.join(words), joint.join(summary)


THREE = (16, 20, 29)  # readable, with answers to be dropped; unreadable; empty


def test_three_random_texts(scorer, fused, count):
    pairs = [random_pair(number) for number in THREE]
    expected = ReferenceScorer(decoding=SMALL).score(*map(list, zip(*pairs, strict=True)))
    for engine in (scorer, fused):
        rows = engine.score(*map(list, zip(*pairs, strict=True)))
        for row, other, pair in zip(rows, expected, pairs, strict=True):
            check(row, *pair, engine, count)
            agree(row, other)
    assert [row.status for row in expected] == ["ok", "unknown_text", "empty_summary"]
    assert expected[0].unknown_tokens > 0


def agree(row, other):
    """Hold two engines' rows against each other; return whether they kept the same pairs."""
    assert (row.status, row.unknown_tokens) == (other.status, other.unknown_tokens)
    is_same = [p.token_ids for p in row.pairs] == [p.token_ids for p in other.pairs]
    if is_same:  # else a near tie
        assert row.score == pytest.approx(other.score, abs=QUALS, nan_ok=True)
    return is_same


@pytest.mark.slow
def test_two_thousand_random_texts(scorer, fused, count, tmp_path):
    pairs = [random_pair(number) for number in range(1000)]
    rows = []
    for first in range(0, len(pairs), 100):
        some = pairs[first : first + 100]
        rows += scorer.score(*map(list, zip(*some, strict=True)))
    for row, pair in zip(rows, pairs, strict=True):
        check(row, *pair, scorer, count)
    seen = {row.status for row in rows}
    assert seen == {"ok", "no_pairs", "empty_summary", "empty_document", "unknown_text", "error"}
    assert all(
        ("\0" in "".join(pair)) == (row.status == "error")
        for row, pair in zip(rows, pairs, strict=True)
    )

    sample = range(0, len(pairs), 25)
    texts = [list(column) for column in zip(*(pairs[i] for i in sample), strict=True)]
    export("qagen-mini", tmp_path / "exported")
    exported = QualsScorer.from_pretrained(
        tmp_path / "exported", backend="onnx", device="cpu", decoding=SMALL
    )
    for engine in (ReferenceScorer(decoding=SMALL), fused, exported):
        found = engine.score(*texts)
        same = sum(agree(rows[i], other) for i, other in zip(sample, found, strict=True))
        assert same >= len(sample) - 2

    export_single_file("qagen-mini", tmp_path / "quals.onnx", decoding=SMALL)
    graph = Graph(tmp_path / "quals.onnx", resolve_provider("cpu"))
    readable = [i for i in sample if rows[i].status != "error"]
    encode = scorer.engine.model.tokenizer.encode
    given = feeds(*([s.text_ids for s in encode([pairs[i][k] for i in readable])] for k in (0, 1)))
    found = graph.run(given)
    for b, i in enumerate(readable):
        assert STATUSES[found["status"][b]] == rows[i].status
        assert found["unknown_tokens"][b] == rows[i].unknown_tokens
