"""What is read, what is left out and why, and how it is shown."""

import gzip
import json
import random
from collections import Counter
from dataclasses import replace

import pytest
import tiny_models
from town import BRIDGE, RIVER, line

from quals_fast.models.checkpoint import read_checkpoint
from quals_fast.training.qagen.batches import Examples, group
from quals_fast.training.qagen.corpus import read_corpus
from quals_fast.training.qagen.encoding import Pair, PairEncoder
from quals_fast.training.qagen.settings import TrainingError, TrainingSettings, Views
from quals_fast.training.qagen.views import Example, also_answered, with_distractors

SQUAD = {
    "version": "v2.0",
    "data": [
        {
            "title": "Bridge",
            "paragraphs": [
                {
                    "context": BRIDGE,
                    "qas": [
                        {
                            "id": "1",
                            "question": " Who? ",
                            "answers": [
                                {"text": "Queen Anne", "answer_start": 25},
                                {"text": "Anne", "answer_start": 31},
                            ],
                        },
                        {"id": "2", "question": "Why?", "is_impossible": True, "answers": []},
                    ],
                }
            ],
        }
    ],
}


def test_squad_and_json_lines_and_mrqa_say_the_same(write, tmp_path):
    rows = [line(BRIDGE, "Queen Anne")]
    rows[0]["qas"][0] = {"q": "Who?", "a": "Queen Anne", "s": 25, "alts": ["Queen Anne", "Anne"]}
    found = [{"text": "Queen Anne", "char_spans": [[25, 34]]}, {"text": "Anne", "char_spans": []}]
    mrqa = [
        {"header": {"dataset": "x"}},
        {
            "context": BRIDGE,
            "qas": [
                {
                    "qid": "1",
                    "question": "Who?",
                    "answers": ["Queen Anne"],
                    "detected_answers": found,
                }
            ],
        },
    ]
    packed = tmp_path / "squad.json.gz"
    packed.write_bytes(gzip.compress(json.dumps(SQUAD, indent=1).encode()))
    files = [write("a.json", SQUAD), packed, write("b.jsonl", rows), write("c.jsonl", mrqa)]
    corpora = [read_corpus([path]) for path in files]
    assert len({tuple(corpus.questions) for corpus in corpora}) == 1
    assert corpora[0].questions[0].start == 25
    assert corpora[0].counts == {"skipped without an answer": 1}
    assert "1 questions on 1 contexts; 1 skipped without an answer" in corpora[0].summary()


def test_what_is_left_out_is_counted(write):
    row = line(BRIDGE, "Queen Anne", "nobody", "", "word " * 51, "1969")
    row["qas"][4]["amb"] = True
    path = write("a.jsonl", [row])
    corpus = read_corpus([path])
    assert [q.answer for q in corpus.questions] == ["Queen Anne"]
    assert corpus.counts == {
        "skipped with answers that are not in the context": 1,
        "skipped without an answer": 1,
        "skipped with answers of over 50 words": 1,
        "skipped with answers of unknown place": 1,
    }
    kept = read_corpus([path], keep_absent=True)
    assert [(q.answer, q.start) for q in kept.questions] == [("Queen Anne", 25), ("nobody", -1)]
    assert kept.counts["kept with answers that are not in the context"] == 1


def test_an_answer_is_found_nearest_to_its_offset(write):
    row = line("Anne met Anne and Anne.", "Anne")
    row["qas"] = [{"q": "who ?", "a": " Anne", "s": s} for s in (0, 8, 11, 16, 99)]
    starts = [q.start for q in read_corpus([write("a.jsonl", [row])]).questions]
    assert starts == [0, 9, 9, 18, 18]


def test_caps_draw_by_the_seed(write):
    path = write("a.jsonl", [line(BRIDGE, "Queen Anne", "forty", "1969")])
    drawn = [read_corpus([path], seed=seed, caps={"town": 1, "x": 9}) for seed in (0, 0, 1, 2, 3)]
    assert drawn[0].questions == drawn[1].questions
    assert len({corpus.questions[0] for corpus in drawn}) > 1
    assert drawn[0].counts == {"skipped over the cap of town": 2}


BAD = {
    "no-context": ({"qas": []}, "line 1 must have a field 'context', but has 'qas'"),
    "no-answer": (
        {"context": BRIDGE, "qas": [{"q": "who ?"}]},
        "line 1, question 1 must have a field 'a', but has 'q'",
    ),
    "no-offset": (
        {"context": BRIDGE, "qas": [{"q": "who ?", "a": "Queen"}]},
        "line 1, question 1 must have a field 's'",
    ),
    "wrong-type": ({"context": 7, "qas": []}, "line 1: 'context' must be text, but is int"),
    "no-object": ("[1]", "line 1 must have a field 'context', but has list"),
}


@pytest.mark.parametrize(("row", "message"), BAD.values(), ids=BAD)
def test_what_lacks_a_field_is_refused_or_counted(write, row, message):
    path = write("a.jsonl", [row, line(BRIDGE, "Queen Anne")])
    with pytest.raises(TrainingError) as raised:
        read_corpus([path])
    assert message in str(raised.value)
    assert "--skip-invalid" in str(raised.value)
    corpus = read_corpus([path], skip_invalid=True)
    assert len(corpus.questions) == 1
    assert corpus.counts == {"invalid entries skipped": 1}


def test_squad_without_fields_is_named(write):
    bad = json.loads(json.dumps(SQUAD))
    del bad["data"][0]["paragraphs"][0]["qas"][0]["answers"]
    with pytest.raises(TrainingError, match=r"data\[0\].paragraphs\[0\], question 1 must have a f"):
        read_corpus([write("a.json", bad)])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", ["x"], "must end in .json"),
        ("a.json", [[1]], "must be in SQuAD's format, an object with a list `data`"),
        ("a.json", ["{"], "a.json is not valid JSON"),
        ("a.jsonl", [line(BRIDGE, "1969"), "{"], "line 2 is not valid JSON"),
        ("a.jsonl.gz", ["not packed"], "is not a complete gzip file"),
        (
            "a.jsonl",
            [line(BRIDGE, "nobody")],
            "no question of .* can be used: 0 questions on 1 con",
        ),
    ],
)
def test_files_of_no_use(write, name, content, message):
    with pytest.raises(TrainingError, match=message):
        read_corpus([write(name, content)])


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(TrainingError, match=r"cannot read .*nowhere.jsonl: No such file"):
        read_corpus([tmp_path / "nowhere.jsonl"])


@pytest.fixture
def encoder(base):
    tokenizer = tiny_models.wordpiece_tokenizer()
    return PairEncoder(tokenizer, read_checkpoint(base)[1], 64)


def words(encoder, ids):
    return [encoder.tokenizer.id_to_token(i) for i in ids]


def test_pairs_have_the_format_of_the_checkpoint(encoder):
    example = Example("who won ?", "queen anne won .", "queen anne", 0)
    source, target = encoder.question_answer(example, random.Random(0))
    assert words(encoder, source) == "[CLS] queen anne won . [SEP]".split()
    assert words(encoder, target) == "[CLS] who won ? [SEP0] queen anne [SEP]".split()
    source, target = encoder.answer_given(example, random.Random(0))
    assert words(encoder, source) == "[CLS] queen anne won . [SEP0] queen anne [SEP]".split()
    assert words(encoder, target) == "[CLS] who won ? [SEP]".split()


def test_long_contexts_are_cut_around_the_answer_or_at_their_start(encoder, base):
    text = "river " * 80 + "queen anne won " + "town " * 80
    example = Example("who ?", text, "queen anne", text.index("queen"))
    shown = [encoder.question_answer(example, random.Random(i)).source for i in range(20)]
    assert {len(source) for source in shown} == {60}
    assert all("queen anne" in " ".join(words(encoder, source)) for source in shown)
    places = {words(encoder, source).index("queen") for source in shown}
    assert len(places) > 5
    at_start = PairEncoder(encoder.tokenizer, encoder.conventions, 64, "start")
    assert set(words(encoder, at_start.question_answer(example, random.Random(0)).source)) == {
        "[CLS]", "river", "[SEP]"
    }  # fmt: skip
    assert encoder.count_long([text, "queen"]) == 1


def test_the_run_says_how_many_contexts_are_long(run, write):
    path = write("long.jsonl", [line("river " * 80 + BRIDGE, "Queen Anne"), line(RIVER, "1962")])
    lines, _ = run(train=(path,), examples=4)
    assert "; 1 contexts are longer than 58 tokens, so only a part around the answer" in lines[0]


def test_without_an_article_distractors_are_what_is_near(write):
    rows = [line(f"{BRIDGE} Number {n}.", "Queen Anne", title=None) for n in range(40)]
    corpus = read_corpus([write("a.jsonl", rows)])
    assert corpus.related(20) == []
    assert corpus.near(20) == [*range(8, 20), *range(21, 33)]
    assert corpus.near(0) == [*range(1, 13)]
    example = with_distractors(
        corpus, corpus.questions[20], random.Random(0), longest=200, passage_words=99
    )
    assert len(example.pieces) > 3
    assert all(8 <= piece.passage <= 32 for piece in example.pieces)


def test_distractors_surround_the_passage(write):
    rows = [
        line(text, "Queen Anne" if text == BRIDGE else "town", title="T")
        for text in (BRIDGE, RIVER, "The town won."[:-1] + " a game.")
    ]
    corpus = read_corpus([write("a.jsonl", rows)])
    question = corpus.questions[0]
    shown = [
        with_distractors(corpus, question, random.Random(i), longest=40, passage_words=99)
        for i in range(30)
    ]
    for example in shown:
        assert example.text[example.start :].startswith("Queen Anne")
        assert BRIDGE in example.text
        assert len(example.text.split()) <= 40
    assert len({example.start for example in shown}) > 2
    lengths = [len(example.text.split()) for example in shown]
    assert min(lengths) < 20 < 30 < max(lengths)  # from a quarter of the longest on


def test_absent_answers_can_be_shown(write, encoder, settings):
    corpus = read_corpus([write("a.jsonl", [line(BRIDGE, "nobody")])], keep_absent=True)
    for view in Views.names():
        pair = Examples(corpus, encoder, settings, view)[0]
        assert pair.source[0] == 3


def test_by_default_only_pairs_are_trained():
    assert str(Views()) == "window=0.65,passage=0.24,distractors=0.11"


def test_views_come_in_their_shares(write, encoder, settings):
    corpus = read_corpus([write("a.jsonl", [line(BRIDGE, "Queen Anne")])])
    views = Views.parse("window=0.5,passage=0.25,answer_given=0.25")
    early = Views.parse("answer_given=1")
    settings = replace(settings, views=views, early_views=early, early_examples=100, examples=2100)
    examples = Examples(corpus, encoder, settings)
    drawn = Counter(turn.view for turn in examples._turns)
    assert drawn["answer_given"] == pytest.approx(100 + 500, abs=60)
    assert drawn["window"] == pytest.approx(1000, abs=80)
    assert drawn["distractors"] == 0
    assert all(1 in examples[place].source for place in range(100))


def town(write):
    rows = [
        line(text, *answers, title="T")
        for text, answers in ((BRIDGE, ("Queen Anne", "forty four", "1969")), (RIVER, ("1962",)))
    ]
    return read_corpus([write("a.jsonl", rows * 5)])


@pytest.mark.parametrize("view", ["window", "passage", "distractors"])
def test_questions_that_share_a_text_have_their_answers_in_it(write, encoder, settings, view):
    corpus = town(write)
    examples = Examples(corpus, encoder, settings)
    shared = 0
    for place, question in enumerate(corpus.questions):
        example = examples._show(question, view, random.Random(place))
        found = dict(also_answered(corpus, example))
        assert found[place] == example.start
        for number, start in found.items():
            assert example.text[start:].startswith(corpus.questions[number].answer)
        shared += len(found) > 1
    assert shared > 0


def test_each_question_comes_up_once_a_pass_by_itself_or_with_others(write, encoder, settings):
    corpus = town(write)
    settings = replace(settings, views=Views.parse("window=0.5,passage=0.5"), together=3)
    short, long = (
        Examples(corpus, encoder, replace(settings, examples=count)) for count in (100, 300)
    )
    turns = long._turns
    assert turns[: len(short) - 1] == short._turns[:-1]
    assert sum(1 + len(turn.others) for turn in turns) == 300
    assert len(turns) < 250
    assert max(len(turn.others) for turn in turns) == 2
    shown = Counter(n for turn in turns for n in (turn.question, *turn.others))
    assert set(shown) == set(range(20))
    assert max(shown.values()) <= 2 * min(shown.values())
    once = Examples(corpus, encoder, replace(settings, examples=20))
    assert once.questions == 20
    assert len({n for turn in once._turns for n in (turn.question, *turn.others)}) >= 14
    eos = encoder.conventions.eos_token_id
    for place, turn in enumerate(turns):
        assert long[place].target.count(eos) == 1 + len(turn.others)


def test_targets_beyond_the_positions_or_the_text_are_left_out(encoder):
    text = "river " * 80 + "queen anne won " + "town " * 80
    example = Example("who ?", text, "queen anne", text.index("queen"))
    others = [("what ?", "town", len(text) - 5), ("what ?", "won", text.index("won"))] * 20
    source, target = encoder.question_answer(example, random.Random(0), others)
    assert len(target) <= 64
    eos = encoder.tokenizer.token_to_id("[SEP]")
    assert target.count(eos) > 5
    assert "town" not in words(encoder, target)
    assert "won" in words(encoder, source)


def test_batches_keep_the_budget():
    pairs = {i: Pair([0] * (5 + i % 7), [0] * 4) for i in range(50)}
    found = group(pairs, 120)
    assert sorted(key for batch in found for key in batch) == list(range(50))
    for batch in found:
        longest = max(len(pairs[key].source) for key in batch)
        assert len(batch) * longest + len(batch) * 4 * 2.5 <= 120
    assert group({0: Pair([0] * 500, [0])}, 120) == [[0]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("window=0.5", "must be at least 0 and sum to 1, but got window=0.5"),
        (
            "windows=1",
            "views must be among window, .*, answer_given, but got 'windows=1'",
        ),
        ("window=all", "the share of 'window' must be a number, but got 'all'"),
        ("window=2,passage=-1", "must be at least 0"),
    ],
)
def test_shares_that_make_no_sense(text, message):
    with pytest.raises(ValueError, match=message):
        Views.parse(text)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"every": 0}, "`every` must be at least 1, but got 0"),
        ({"keep": 1}, "`keep` must be at least 2, but got 1"),
        ({"learning_rate": 0.0}, "`learning_rate` must be positive, but got 0.0"),
        ({"decay": 1.5}, "`decay` must be between 0 and 1, but got 1.5"),
        ({"label_smoothing": 1.1}, "`label_smoothing` must be between 0 and 1, but got 1.1"),
        ({"minutes": 0.0}, "`minutes` must be positive, but got 0.0"),
        ({"workers": -1}, "`workers` must be at least 0, but got -1"),
        ({"renamed": -0.1}, "`renamed` must be between 0 and 1, but got -0.1"),
        ({"positions": 0}, "`positions` must be at least 1, but got 0"),
        ({"bf16": "yes"}, "`bf16` must be 'auto' or 'on' or 'off', but got 'yes'"),
        ({"patience": 2}, "`patience` needs `dev`"),
        ({"early_examples": 5}, "`early_views` and `early_examples` go together"),
        ({"train": ()}, "`train` must name at least one file"),
        ({"caps": {"a": 0}}, "`caps` must be at least 1"),
    ],
)
def test_settings_that_make_no_sense(tmp_path, changes, message):
    given = {"train": (tmp_path,), "init": "x", "output": tmp_path} | changes
    with pytest.raises(ValueError, match=message):
        TrainingSettings(**given)
