"""Models that are no classifier, or not one of pairs of texts, and damaged ones."""

import json
import shutil
from pathlib import Path

import pytest
import small_hub
import tiny_classifiers
import tiny_models
import torch
from messages import says
from model_folders import change_json, change_weights, split_in_two

from quals_fast.classifier.checkpoint import index_of_label, load_classifier
from quals_fast.models.checkpoint import CheckpointError

CPU = torch.device("cpu")


def load(folder, metric="classifier", **settings):
    return load_classifier(folder, metric, device=CPU, dtype=torch.float32, **settings)


def fails(folder, message, metric="classifier"):
    with pytest.raises(CheckpointError, match=says(message)) as raised:
        load(folder, metric)
    assert "\n" not in str(raised.value)


def test_a_folder_as_transformers_writes_it(folder):
    found = load(folder)
    assert (found.labels, found.max_tokens, found.has_segments) == (
        ("CORRECT", "INCORRECT"),
        48,
        True,
    )
    weights = tiny_classifiers.trained_bert().state_dict()
    assert all(torch.equal(w, weights[name]) for name, w in found.network.state_dict().items())
    assert not found.network.training


def test_shards_of_a_pickle(factcc, tmp_path):
    own = shutil.copytree(factcc, tmp_path / "own")
    weights = torch.load(own / "pytorch_model.bin")
    split_in_two(own, "pytorch_model.bin", weights, torch.save)
    found = load(own, "factcc").network.state_dict()
    assert all(torch.equal(found[name], weight) for name, weight in weights.items())


# Labels


def test_the_label_must_be_one_of_its_labels(folder):
    found = load(folder)
    assert index_of_label(found, "INCORRECT", "classifier") == 1
    message = "`positive` must name … 'CORRECT', 'INCORRECT' of small, but got"
    for positive in (None, "entailment", "correct"):
        with pytest.raises(ValueError, match=says(f"{message} {positive!r}")) as raised:
            index_of_label(found, positive, "classifier")
        assert "model card" not in str(raised.value)
    with pytest.raises(ValueError, match=says("must be 'CORRECT' for FactCC, but got 'INCORRECT'")):
        index_of_label(found, "INCORRECT", "factcc")


def test_labels_without_names(own_folder):
    change_json(own_folder / "config.json", id2label=None, label2id=None)
    found = load(own_folder)
    message = "one of 'LABEL_0', 'LABEL_1' of own, but got None … see its model card"
    with pytest.raises(ValueError, match=says(message)):
        index_of_label(found, None, "classifier")
    assert index_of_label(found, "LABEL_1", "classifier") == 1
    assert load(own_folder, "factcc").labels == ("CORRECT", "INCORRECT")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"problem_type": "multi_label_classification"}, "must choose one of at least two labels"),
        ({"id2label": {"0": "score"}, "problem_type": None}, "has score and `problem_type` None"),
    ],
)
def test_labels_that_exclude_one_another(own_folder, changes, message):
    change_json(own_folder / "config.json", **changes)
    if "id2label" in changes:
        change_weights(own_folder, lambda w: w.update(one_label(w)))
    fails(own_folder, message)


def one_label(weights):
    return {name: w[:1] for name, w in weights.items() if name.startswith("classifier")}


@pytest.mark.parametrize("labels", [{"1": "yes", "2": "no"}, {"0": "yes", "1": "yes"}])
def test_labels_by_wrong_numbers_or_twice(own_folder, labels):
    change_json(own_folder / "config.json", id2label=labels, label2id=None)
    fails(own_folder, "must give each number from 0 to 1 a label of its own, but is {")


def test_factcc_is_a_bert_with_its_labels(own_folder):
    change_json(own_folder / "config.json", id2label={"0": "yes", "1": "no"})
    message = "labels CORRECT and INCORRECT, but the config of own names 'yes', 'no'; use --metric"
    with pytest.raises(ValueError, match=says(message)):
        index_of_label(load(own_folder, "factcc"), None, "factcc")
    change_json(own_folder / "config.json", model_type="roberta")
    fails(
        own_folder,
        "a BERT, but `model_type` is 'roberta' … --metric classifier",
        "factcc",
    )


# Models that would run with random weights, or not at all


def test_a_model_without_a_head_for_classification(folder, tmp_path):
    bart = tiny_models.write_checkpoint(tmp_path / "bart")
    fails(bart, "weights of a BartForSequenceClassification … lack … random … trained for sequence")
    from transformers import BertConfig, BertForQuestionAnswering

    network = BertForQuestionAnswering(BertConfig(**tiny_classifiers.CONFIG))
    network.save_pretrained(tmp_path / "qa")
    shutil.copy(folder / "tokenizer.json", tmp_path / "qa")
    fails(tmp_path / "qa", "qa: the weights of a BertForSequenceClassification … (4 such)")


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("classifier.weight", None, "lack classifier.weight (1 such)"),
        ("bert.encoder.layer.1.output.dense.bias", None, "lack bert.encoder.layer.1.output"),
        (
            "classifier.weight",
            torch.zeros(3, 32),
            "must have shape (2, 32) … (3, 32)",
        ),
        ("classifier.bias", torch.tensor([0.0, torch.nan]), "classifier.bias must be finite"),
        (
            "classifier.weight",
            torch.zeros(2, 32, dtype=torch.int8),
            "weight has the type int8",
        ),
    ],
)
def test_weights_that_do_not_fit(own_folder, name, tensor, message):
    change_weights(
        own_folder, lambda w: w.pop(name) if tensor is None else w.update({name: tensor})
    )
    fails(own_folder, message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": None}, "no `model_type`; for FactCC's checkpoint use --metric factcc"),
        ({"model_type": "tree"}, "has no classifier of texts with `model_type` 'tree'; choose"),
        ({"model_type": "clip"}, "no classifier of texts with `model_type` 'clip'"),
        ({"hidden_size": 33}, "transformers cannot read this model"),
        ({"vocab_size": 40}, "must have shape (40, 32) according to config.json, but has (45, 32)"),
    ],
)
def test_configs_that_cannot_be(own_folder, changes, message):
    change_json(own_folder / "config.json", **changes)
    fails(own_folder, message)


def test_code_of_a_repository_is_not_run(own_folder):
    own = {"AutoModelForSequenceClassification": "code.Model", "AutoConfig": "code.Config"}
    (own_folder / "code.py").write_text("raise SystemExit('ran')")
    change_json(own_folder / "config.json", auto_map=own)
    load(own_folder)
    change_json(own_folder / "config.json", model_type="own")
    fails(own_folder, "has no classifier of texts with `model_type` 'own'")


def test_a_pickle_that_runs_code(factcc, tmp_path):
    own = shutil.copytree(factcc, tmp_path / "own")

    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"classifier.weight": Evil()}, own / "pytorch_model.bin")
    fails(own, "must hold tensors and nothing else … and was not run", "factcc")
    assert not (tmp_path / "ran").exists()


# Files


def test_files_that_are_missing(own_folder, factcc, tmp_path):
    fails(tmp_path / "none", "must be a folder, or OWNER/NAME … but there is no folder")
    fails(tmp_path / "none", "README of github.com/salesforce/factCC … vocab.txt", "factcc")
    (own_folder / "tokenizer.json").unlink()
    fails(own_folder, "own has no tokenizer: expected tokenizer.json, vocab.txt")
    (own_folder / "model.safetensors").unlink()
    fails(own_folder, "has no weights: expected model.safetensors or pytorch_model.bin")
    (own_folder / "config.json").unlink()
    fails(own_folder, "has no config.json")
    own = shutil.copytree(factcc, tmp_path / "factcc")
    (own / "vocab.txt").unlink()
    fails(own, "has no tokenizer … put vocab.txt of bert-base-uncased beside", "factcc")


def test_tokenizers_that_cannot_join_two_texts(own_folder):
    path = own_folder / "tokenizer.json"
    (own_folder / "tokenizer_config.json").write_text('{"tokenizer_class": "TokenizersBackend"}')
    fails(own_folder, "must have a padding token, and special tokens that join two texts")
    path.write_text("{}")
    fails(own_folder, "transformers cannot read this model")


def test_a_tokenizer_with_too_many_tokens(own_folder):
    content = json.loads((own_folder / "tokenizer.json").read_text())
    content["model"]["vocab"]["extra"] = len(tiny_classifiers.TOKENS)
    (own_folder / "tokenizer.json").write_text(json.dumps(content))
    fails(own_folder, "the tokenizer has 46 tokens, but the model's vocabulary has only 45")


# Other families


def test_positions_behind_the_padding(folder, tmp_path):
    """Those of RoBERTa: of 40, the first three are not for tokens. It knows no segments."""
    from transformers import RobertaConfig, RobertaForSequenceClassification

    config = tiny_classifiers.CONFIG | {"max_position_embeddings": 40, "pad_token_id": 2}
    config["type_vocab_size"] = 1
    RobertaForSequenceClassification(RobertaConfig(**config)).save_pretrained(tmp_path / "roberta")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(folder / name, tmp_path / "roberta")
    found = load(tmp_path / "roberta")
    assert found.max_tokens == 37
    assert not found.has_segments  # although the tokenizer, a BERT's, gives them
    ids = torch.full((1, 37), 5)
    assert found.network(input_ids=ids).logits.isfinite().all()
    with pytest.raises((IndexError, RuntimeError)):
        found.network(input_ids=torch.full((1, 38), 5))


def test_nothing_says_how_long_inputs_may_be(folder, tmp_path):
    from transformers import T5Config, T5ForSequenceClassification

    config = T5Config(
        vocab_size=45, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, pad_token_id=0
    )
    T5ForSequenceClassification(config).save_pretrained(tmp_path / "t5")
    shutil.copy(folder / "tokenizer.json", tmp_path / "t5")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings |= {"model_max_length": None, "tokenizer_class": "BertTokenizer"}
    (tmp_path / "t5" / "tokenizer_config.json").write_text(json.dumps(settings))
    fails(tmp_path / "t5", 'nothing says how long … add "model_max_length"')


# The hub

FETCH = """
import sys
from quals_fast.classifier.checkpoint import classifier_folder
print(classifier_folder(sys.argv[1]))
"""


def test_a_classifier_on_the_hub(folder, tmp_path):
    repository = tmp_path / "repositories" / "owner" / "small"
    shutil.copytree(folder, repository)
    (repository / "vocab.txt").write_text("\n".join(tiny_classifiers.TOKENS))
    (repository / "code.py").write_text("raise SystemExit")
    with small_hub.small_hub(tmp_path / "repositories") as hub:
        answer = small_hub.ask(hub, tmp_path / "home", FETCH, "owner/small")
        assert answer.stdout, answer.stderr
        found = load(Path(answer.stdout.strip()))
        assert found.name == f"owner/small@{hub.commit('owner/small')}"
        assert {name.rpartition("/")[2] for name in hub.fetched} == {
            "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
            "vocab.txt",
        }  # fmt: skip


def test_a_revision_is_for_the_hub(folder):
    with pytest.raises(ValueError, match=says("`revision` is for names … but got 'main'")):
        load(folder, revision="main")
