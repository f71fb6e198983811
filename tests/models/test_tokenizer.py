"""Tokenizers as they come in a model folder: what loads, and how texts become tokens and back."""

import json

import pytest
import tiny_models
from model_folders import VOCAB, change_json, fails, load
from tokenizers import Tokenizer, decoders, models, pre_tokenizers


def test_no_tokenizer(folder):
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text("{}")  # without merges.txt
    advice = "save it there with transformers' tokenizer.save_pretrained()"
    message = f"{folder} has no tokenizer: expected tokenizer.json, or vocab.json with merges.txt; "
    fails(folder, message + advice)


@pytest.mark.parametrize("content", ["", "{}", "[1]"], ids=["empty", "object", "list"])
def test_broken_tokenizer(folder, content):
    (folder / "tokenizer.json").write_text(content)
    fails(folder, f"{folder / 'tokenizer.json'} cannot be read by the tokenizers library: ")


def test_tokenizer_larger_than_the_vocabulary(folder):
    tiny_models.byte_level_tokenizer().save(str(folder / "tokenizer.json"))
    message = (
        f"{folder}: the tokenizer has 262 tokens, but the model's vocabulary has only {VOCAB}; "
        "use the tokenizer that was saved with the model"
    )
    fails(folder, message)


def test_separator_beyond_the_tokenizer(folder):
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"]["vocab"]["[SPARE]"] = content["model"]["vocab"].pop("[SEP0]") + VOCAB - 2
    (folder / "tokenizer.json").write_text(json.dumps(content))
    message = (
        f"{folder}: `sep_token_id` 1 must be a token of the tokenizer, but it has none of that"
    )
    fails(folder, message, "; take config and tokenizer from one checkpoint")


def test_only_a_sentencepiece_model(folder):
    (folder / "tokenizer.json").unlink()
    (folder / "spiece.model").write_bytes(b"")
    message = (
        f"{folder} has a SentencePiece model, spiece.model, but no tokenizer.json; make one in "
        "Python, with transformers, sentencepiece and protobuf installed:\n"
        "  from transformers import AutoTokenizer\n"
        f"  AutoTokenizer.from_pretrained({str(folder)!r}).save_pretrained({str(folder)!r})"
    )
    fails(folder, message)


def write_byte_level(folder, merges=()):
    """Write a model whose tokenizer is vocab.json and merges.txt, as fairseq's and older ones."""
    tokenizer = tiny_models.byte_level_tokenizer()
    tiny_models.write_checkpoint(folder, tiny_models.FAIRSEQ_LIKE, tokenizer)
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text(json.dumps(tokenizer.get_vocab()))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(merges))
    return folder


def test_vocab_and_merges(tmp_path):
    tokenizer = load(write_byte_level(tmp_path / "bpe")).tokenizer
    text = "Löwe </s> won 1962 \U0001f41d"
    (source,) = tokenizer.encode([text])
    assert len(source.text_ids) == len(text.encode())
    assert source.input_ids == [*source.text_ids, 2]  # no first token, </s> at the end only
    assert tokenizer.decode(source.text_ids) == text
    assert tokenizer.answer_match == "text"
    assert tokenizer.readable_tokens((*source.text_ids[:1], 4, 2)) == ("L", "<sep>", "<eos>")


def test_digest_of_vocab_and_merges(tmp_path):
    before = load(write_byte_level(tmp_path / "bpe")).digest
    (tmp_path / "bpe" / "merges.txt").write_text("#version: 0.3\n")
    assert load(tmp_path / "bpe").digest != before


@pytest.mark.parametrize(
    ("name", "content"), [("vocab.json", "[]"), ("merges.txt", "a b c d\nx\n")], ids=str
)
def test_broken_vocab_and_merges(tmp_path, name, content):
    folder = write_byte_level(tmp_path / "bpe")
    (folder / name).write_text(content)
    fails(folder, f"{folder / 'vocab.json'} and merges.txt are not a BPE: ")


def test_special_tokens_inside_a_text_are_text(folder):
    vocab = {
        t: i for i, t in enumerate([*tiny_models.SPECIAL, "<", "/", "s", ">", "[", "]", "sep"])
    }
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(cleanup=False)
    tokenizer.add_special_tokens(["[SEP]", "[SEP0]", "[PAD]", "</s>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    tokenizer = load(folder).tokenizer
    for text in ("</s>", "[SEP]", "[SEP0]", "[PAD]"):
        (source,) = tokenizer.encode([text])
        assert not {0, 1, 4, 12} & set(source.text_ids), text
    assert tokenizer.encode(["</s>"])[0].input_ids == [3, 5, 6, 7, 8, 4]


@pytest.mark.parametrize("source_bos", [True, False], ids=["with-bos", "without-bos"])
@pytest.mark.parametrize("longest", [3, 10, 64])
def test_truncation_is_counted(folder, source_bos, longest):
    change_json(folder / "config.json", source_bos=source_bos, max_source_tokens=longest)
    tokenizer = load(folder).tokenizer
    room = longest - 1 - source_bos
    lengths = [0, 1, room - 1, room, room + 1, room + 30]
    for length, source in zip(
        lengths, tokenizer.encode(["queen " * n for n in lengths]), strict=True
    ):
        assert len(source.text_ids) == length
        assert source.truncated_tokens == max(0, length - room)
        assert len(source.input_ids) == min(length, room) + 1 + source_bos
        assert source.input_ids[-1] == 4
        assert source_bos == (source.input_ids[0] == 3)


def test_truncation_and_padding_of_the_file_are_off(folder):
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=9)
    tokenizer.save(str(folder / "tokenizer.json"))
    (source,) = load(folder).tokenizer.encode(["queen anne won the game"])
    assert len(source.text_ids) == 5


def test_tokens_as_they_are_read(tiny_folder):
    tokenizer = load(tiny_folder).tokenizer
    (source,) = tokenizer.encode(["Queens zzz"])
    assert tokenizer.readable_tokens((*source.text_ids, 1, 4, VOCAB - 1, 99)) == (
        "queen",
        "##s",
        "[UNK]",
        "<sep>",
        "<eos>",
        "-",
        "<99>",
    )
    assert tokenizer.decode(source.text_ids[:2]) == "queens"
    assert tokenizer.answer_match == "ids"


def test_answer_match_of_the_config_counts(folder):
    change_json(folder / "config.json", answer_match="text")
    assert load(folder).tokenizer.answer_match == "text"
