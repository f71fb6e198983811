"""Long texts are tokenised in pieces, which gives the tokens of the whole in little memory."""

import json
import subprocess
import sys
from functools import cache

import pytest
import tiny_models
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from quals_fast.models import tokenizer as module
from quals_fast.models.checkpoint import read_checkpoint, read_tokenizer
from quals_fast.models.loading import model_folder
from quals_fast.models.tokenizer import (
    QATokenizer,
    pieces_of,
    safe_cut,
    unknown_token_id,
)


def byte_level(**options):
    """Byte-level BPE as GPT-2's, with merges of its own."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(**{"add_prefix_space": False, **options})
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    texts = ["the queen's bridge  in the town, she's won 1962", "\n\n a  b\t the  the 12 été 陈伟"]
    tokenizer.train_from_iterator(texts * 9, trainer)
    return tokenizer


def cased(normalizer):
    tokenizer = read_tokenizer(model_folder("qagen-mini"))
    if normalizer is None:
        content = json.loads(tokenizer.to_str()) | {"normalizer": None}
        return Tokenizer.from_str(json.dumps(content))
    tokenizer.normalizer = normalizer
    return tokenizer


def texts_of(text, cut, size):
    """The pieces of a text, which begin where they are said to."""
    pieces = list(pieces_of(text, cut, size))
    assert all(text[start:].startswith(piece) for start, piece in pieces)
    return [piece for _, piece in pieces]


KINDS = {
    "bundled": lambda: read_tokenizer(model_folder("qagen-mini")),
    "wordpiece": tiny_models.wordpiece_tokenizer,
    "wordpiece, accents and case kept, no Chinese": lambda: cased(
        normalizers.BertNormalizer(handle_chinese_chars=False, strip_accents=False, lowercase=False)
    ),
    "wordpiece, no normaliser": lambda: cased(None),
    "byte-level": byte_level,
}
build = cache(lambda name: KINDS[name]())

FRAGMENTS = [
    "queen",
    "towers",
    "l'été",
    "it's",
    "陈伟",
    "สระ",
    "👍🏽",
    "e\u0301",
    "\u0301",
    "12",
    "x" * 101,
]
FRAGMENTS += [
    "[UNK]",
    "</s>",
    "<b>",
    "Σς",
    "İ",
    "ﬁ",
    "\ufeff",
    "\u200b",
    "\x01",
    "\x1c",
    "\ue000",
    ".",
]
SPACES = [" ", "  ", "\n", "\r\n", "\t ", "\u00a0", "\u2003", "\u3000", "\x85", "\u2028", ""]
TEXTS = st.lists(
    st.tuples(st.one_of(st.sampled_from(FRAGMENTS), st.text(max_size=4)), st.sampled_from(SPACES))
).map(lambda parts: "".join(word + space for word, space in parts))


@pytest.mark.parametrize("name", KINDS)
def test_the_tokens_of_the_pieces_are_those_of_the_whole(name):
    tokenizer = build(name)
    cut = safe_cut(tokenizer)
    assert cut is not None
    tokenizer.encode_special_tokens = True

    def ids(text):
        return tokenizer.encode(text, add_special_tokens=False).ids

    @given(TEXTS, st.integers(1, 12))
    @example("a  \n b", 1)
    @example("a\x01 \u0301b \n", 1)
    def check(text, size):
        pieces = list(texts_of(text, cut, size))
        assert "".join(pieces) == text
        assert [token for piece in pieces for token in ids(piece)] == ids(text)

    check()


def test_where_texts_are_cut():
    gpt2, bert = safe_cut(byte_level()), safe_cut(tiny_models.wordpiece_tokenizer())
    assert list(texts_of("ab cd  ef\ng.h", gpt2, 1)) == ["ab", " cd", "  ef", "\ng.h"]
    assert list(texts_of("ab cd  ef\ng.h", gpt2, 3)) == ["ab cd", "  ef", "\ng.h"]
    assert list(texts_of("ab c.d陈伟", bert, 1)) == ["ab", " c", ".d", "陈", "伟"]
    assert list(texts_of("ab c.d陈伟", bert, 4)) == ["ab c", ".d陈伟"]
    for text in ("ab cd", ""):
        assert list(texts_of(text, None, 1)) == [text]
    for cut in (gpt2, bert):
        assert list(texts_of("abcd", cut, 1)) == ["abcd"]
        assert list(texts_of("", cut, 1)) == [""]


def added():
    tokenizer = byte_level()
    tokenizer.add_tokens(["a b"])
    return tokenizer


def normalised():
    tokenizer = byte_level()
    tokenizer.normalizer = normalizers.Strip()
    return tokenizer


@pytest.mark.parametrize(
    "make",
    [
        tiny_models.byte_level_tokenizer,  # merges may cross white space
        lambda: byte_level(add_prefix_space=True),
        added,
        normalised,
    ],
    ids=["one-word", "prefix-space", "added-tokens", "normaliser"],
)
def test_other_tokenizers_take_a_text_whole(make, monkeypatch, tmp_path):
    monkeypatch.setattr(module, "_PIECE_CHARACTERS", 1)
    assert safe_cut(make()) is None
    folder = tiny_models.write_checkpoint(tmp_path / "m", tiny_models.FAIRSEQ_LIKE, make())
    _, conventions = read_checkpoint(folder)
    text = " a b  the queen \n a b "
    (source,) = QATokenizer(make(), conventions).encode([text])
    assert list(source.text_ids) == make().encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("piece", [1, 5, 4096])
@pytest.mark.parametrize("batch", [1, 64])
def test_counts_are_exact_whatever_the_pieces(tiny_folder, monkeypatch, piece, batch):
    monkeypatch.setattr(module, "_PIECE_CHARACTERS", piece)
    monkeypatch.setattr(module, "_MAX_PIECES", batch)
    _, conventions = read_checkpoint(tiny_folder)
    tokenizer = QATokenizer.from_folder(tiny_folder, conventions)
    texts = ["queen 陈 " * 90, "", "anne", "陈\n\nanne" * 40]
    sources = tokenizer.encode(texts)
    assert [source.n_tokens for source in sources] == [180, 0, 1, 80]
    assert [source.unknown_tokens for source in sources] == [90, 0, 0, 40]
    assert [source.truncated_tokens for source in sources] == [180 - 62, 0, 0, 80 - 62]
    queen = tiny_models.wordpiece_tokenizer().token_to_id("queen")
    assert sources[0].input_ids == [3, *[queen, 2] * 31, 4]


def unigram():
    return Tokenizer(models.Unigram([("a", -1.0), ("<unk>", 0.0), ("▁", -2.0)], unk_id=1))


@pytest.mark.parametrize(
    ("make", "unknown"),
    [(tiny_models.wordpiece_tokenizer, 2), (byte_level, None), (unigram, 1)],
    ids=["wordpiece", "byte-level", "unigram"],
)
def test_the_unknown_token(make, unknown):
    tokenizer = make()
    assert unknown_token_id(tokenizer) == unknown
    ids = tokenizer.encode("陈", add_special_tokens=False).ids
    assert (unknown in ids) == (unknown is not None)


def test_a_document_of_12_megabytes_takes_little_memory():
    code = """if True:
        import resource
        from quals_fast.models.checkpoint import read_checkpoint
        from quals_fast.models.tokenizer import QATokenizer
        from pathlib import Path
        import sys

        folder = Path(sys.argv[1])
        tokenizer = QATokenizer.from_folder(folder, read_checkpoint(folder)[1])
        text = "the queen opened it\\n" * 600_000
        tokenizer.encode(["a b"])
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        (source,) = tokenizer.encode([text])
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, source.truncated_tokens)
    """
    folder = model_folder("qagen-mini")
    found = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True
    )
    grown_kib, truncated = map(int, found.stdout.split())
    assert truncated == 4 * 600_000 - 1022
    assert grown_kib < 150 * 1024  # as a whole it takes 2 GB
