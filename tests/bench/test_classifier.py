"""The recipe of the consistency classifier: what each rule changes, and that a network learns."""

import gzip
import json
import random
from types import SimpleNamespace

import pytest
import qags_models
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from bench.recipes.classifier import claims, measuring, training
from bench.recipes.qags_training.loop import Recipe, train
from bench.shared.common import Pair
from quals_fast.qags.networks import ANSWERING

TEXT = (
    "Queen Anne opened the bridge in 1962. King George had closed the tower in 1969. "
    "She said 40 people won. They lost 44 lives and did not win. He can't see his town."
)
ENTITIES = {
    "Queen Anne": "PERSON", "King George": "PERSON", "1962": "DATE", "1969": "DATE",
    "40": "CARDINAL", "44": "CARDINAL",
}  # fmt: skip


def finder():
    """Return a spaCy pipeline that finds sentences and, without a model, the entities above."""
    spacy = pytest.importorskip("spacy", reason="the rules read spaCy's documents")
    nlp = spacy.blank("en")
    nlp.add_pipe("sentencizer")
    patterns = [{"label": label, "pattern": name} for name, label in ENTITIES.items()]
    nlp.add_pipe("entity_ruler").add_patterns(patterns)
    return nlp


def read(text=TEXT):
    return finder()(text)


@pytest.mark.parametrize(
    ("rule", "place", "expected"),
    [
        ("name", 0, {"King George opened the bridge in 1962."}),
        ("name", 1, {"Queen Anne had closed the tower in 1969."}),
        ("date", 0, {"Queen Anne opened the bridge in 1969."}),
        ("number", 2, {"She said 44 people won."}),
        ("number", 0, {None}),
        ("pronoun", 0, {None}),
        ("pronoun", 2, {f"{one} said 40 people won." for one in ("I", "You", "He", "We", "They")}),
        (
            "negation",
            1,
            {f"King George {had} closed the tower in 1969." for had in ("had not", "hadn't")},
        ),
        ("negation", 0, {None}),
        ("negation", 3, {"They lost 44 lives and did win."}),
        ("negation", 4, {"He can see his town."}),
    ],
)
def test_rules(rule, place, expected):
    document = read()
    claim = list(document.sents)[place]
    made = {claims.RULES[rule](claim, document, random.Random(seed)) for seed in range(60)}
    assert made == expected


def test_all_pronouns_of_a_claim_may_change():
    document = read()
    claim = list(document.sents)[4]
    made = {claims.swap_pronoun(claim, document, random.Random(seed)) for seed in range(80)}
    assert {"He can't see her town.", "They can't see his town."} < made
    assert len(made) == 5 + 6


@pytest.mark.parametrize(
    "text", ["The king has no town.", "The king will never win.", "King, is", "A town can"]
)
def test_what_cannot_be_negated(text):
    document = read(text)
    assert claims.negate(document, document, random.Random(0)) is None


def test_a_wrong_claim_is_nothing_that_the_document_says():
    document = read("She won the game. He won the game. They won the game of the town.")
    for seed in range(40):
        for claim in document.sents:
            for made in claims.corrupt(claim, document, random.Random(seed)).values():
                assert made.casefold() not in document.text.casefold()


def test_claims_know_where_they_come_from():
    summary = read("Queen Anne had opened the bridge.")
    document = read(TEXT.replace("opened the bridge in", "opened the bridge of the old town in"))
    found = list(claims.claims_of(document, summary, random.Random(0)))
    assert [claim.text for claim in found if claim.text not in claim.sentences] == [
        "Queen Anne had opened the bridge."
    ]
    for claim in found:
        assert claim.wrong
        assert claim.text not in claim.wrong.values()
        if claim.text in claim.sentences:
            assert claim.sentences[claim.place] == claim.text
    assert found[-1].place == 0


def test_documents_of_judged_sets_are_left_out(tmp_path):
    def write(name, rows):
        with gzip.open(tmp_path / name, "wt", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)

    judged = "The King has won the old game of the town again and again. "
    for name in claims.JUDGED:
        write(claims.judged_file(tmp_path, name).name, [{"document": judged * 9, "summary": "a"}])
    other = (
        "She said that the tower of the town was closed.\nIt was open before the game.\n"
        "He had lost that game to the king of the river and of the town."
    )
    summary = "The tower was closed in 1962 ."
    rows = [
        ("bbc-news-summary", judged.upper() * 3),
        ("entfa-xsum", other),
        ("entfa-xsum", other + " Again."),
        ("newsroom60", "He said that the town was very large and very old."),
        ("cnndm-validation", f"By Anne. {other} {TEXT}"),
    ]
    write(
        claims.PAIRS_FILE,
        [{"source": source, "document": text, "summary": summary} for source, text in rows],
    )
    found = claims.stored_claims(tmp_path / "run" / "claims.json", tmp_path, 9, finder())
    # The second document of entfa begins as the first one does.
    first, second = sorted(found, key=lambda claims: len(claims[0].sentences))
    assert first[0].sentences == other.splitlines()
    assert summary not in [claim.text for claim in first]
    assert second[-1].text == summary
    assert set(second[-1].wrong) == {"date", "negation"}
    assert claims.stored_claims(tmp_path / "run" / "claims.json", tmp_path, 9, None) == found


@pytest.mark.parametrize(("words", "sentences"), [(1, 1), (14, 2), (1000, 5)])
def test_windows_grow_around_the_claim(words, sentences):
    texts = [sentence.text for sentence in read().sents]
    for place, seed in [(0, 0), (2, 1), (2, 2), (4, 3)]:
        claim = claims.Claim(texts, place, texts[place], {})
        window = claims.window(claim, words, random.Random(seed))
        assert texts[place] in window
        assert window in TEXT
        assert sum(text in window for text in texts) >= sentences


def test_noise_spares_what_the_rule_changed():
    correct, wrong = "the king won a game", "the king lost two games a game"
    for seed in range(50):
        a, b = claims.with_noise(correct, wrong, random.Random(seed))
        assert ("won" in a, "lost two games" in b) == (True, True)
        assert a.replace("won", "lost two games") == b
    assert len({claims.with_noise(correct, wrong, random.Random(seed)) for seed in range(50)}) > 3


@pytest.mark.parametrize(
    ("correct", "wrong", "words"),
    [
        ("she won the game", "he won the game", "he"),
        ("she won the game", "she won two games in it", "two games in it"),
        ("she did not win", "she did win", "did"),
        ("not she", "she", "she"),
        ("she won", "she won not", "not"),
    ],
)
def test_what_changed(correct, wrong, words):
    start, end = claims.changed(correct, wrong)
    assert wrong[start:end] == words


def test_a_network_learns_and_is_a_folder_of_transformers(tmp_path):
    qags_models.write_models(tmp_path)
    network, tokenizer = training.new_network(tmp_path / ANSWERING)
    towns = "bridge tower town river game".split()
    made_up = [
        claims.Claim(
            [f"{who} {did} the {what} in 1962 ."],
            0,
            f"{who} {did} the {what} in 1962 .",
            {"date": f"{who} {did} the {what} in 1969 ."},
        )
        for who in ("queen anne", "king")
        for did in ("opened", "lost")
        for what in towns
    ]
    assert len(made_up) == 20
    task = training.ClaimTask(made_up, tokenizer, network)
    batch = [task.draw(i, random.Random(i), 0.0) for i in range(20)]
    for pair in batch:
        first, last = pair.span
        words = tokenizer.convert_ids_to_tokens(pair.incorrect["input_ids"][first : last + 1])
        assert words == ["1969"]
    before = task.loss(batch).item()
    recipe = Recipe(
        examples=800,
        minutes=None,
        batch_size=10,
        learning_rate=5e-3,
        seed=1,
        threads=torch.get_num_threads(),
    )
    train(task, recipe, tmp_path)
    assert task.loss(batch).item() < before / 4

    training.save(network, tokenizer, tmp_path / "model")
    saved = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
    assert saved.config.id2label == {0: "CORRECT", 1: "INCORRECT"}
    reader = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert reader("the king", "anne")["token_type_ids"] == [0, 0, 0, 0, 1, 1]
    pairs = [(one.sentences[0], text) for one in made_up for text in (one.text, one.wrong["date"])]
    shares = measuring.probabilities(saved.eval(), reader, pairs)
    assert min(shares[::2]) > 0.5 > max(shares[1::2])
    measured = measuring.on_claims(saved, reader, [made_up])
    assert measured["claims"] == 20
    assert measured["by_rule"]["date"]["balanced_accuracy"]["value"] == 1


def test_a_summary_has_the_mean_of_its_sentences(monkeypatch):
    shares = {"She won.": 0.9, "He lost.": 0.3, "They won.": 0.8, "You won.": 0.2}
    monkeypatch.setattr(
        measuring, "probabilities", lambda *given: [shares[text] for _, text in given[-1]]
    )
    given = []
    monkeypatch.setattr(
        measuring,
        "agreement",
        lambda _, scores, labels: given.append((scores, labels)) or SimpleNamespace(to_dict=dict),
    )
    rows = [
        Pair(str(i), "document", summary, label)
        for i, (summary, label) in enumerate(
            [("She won. He lost.", 1.0), ("They won. She won.", 1.0), ("You won.", 0.0)]
        )
    ]
    measured = measuring.on_summaries(None, None, rows, finder())
    assert given == [([pytest.approx(0.6), pytest.approx(0.85), 0.2], [1.0, 1.0, 0.0])]
    assert (measured["rows"], measured["sentences"]) == (3, 5)
    assert measured["balanced_accuracy"]["value"] == pytest.approx(3 / 4)


def test_another_network_is_refused(tmp_path):
    qags_models.write_models(tmp_path)
    with pytest.raises(ValueError, match="must hold an answering BERT, but lacks bert"):
        training.new_network(tmp_path / "question_generation")


def test_balanced_accuracy():
    says, labels = [True, True, False, False, True], [True, True, True, False, False]
    found = measuring.balanced_accuracy(says, labels, list("aabbb"))
    assert found["value"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert found["low"] <= found["value"] <= found["high"]
