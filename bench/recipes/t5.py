"""T5 models of the published sizes with random weights; T5 1.0s ask and answer all the same.

With random weights alone, a T5 generates no pairs: lengths and kept pairs would be made up. So a
few of the weights are set by hand, in the first block of the decoder and in the embedding. They
copy common words of the source to the logits, and let a question end after some ten tokens and an
answer after one or two, like those of the bundled model. All other weights are random, and those
that add to the hidden states are small. Nothing is trained, so the weights are the same everywhere.

In t5-small, with which programs are compared, the random blocks of the decoder also change which
words are likely, so that a mistake in them would change the questions.

FLAN-T5's sizes are for training, so their weights are random alone.

The tokenizer is a Unigram like T5's own, with the pieces of the bundled model's vocabulary and, as
in T5's, 100 extra ids; `<sep>` follows them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from quals_fast.models.loading import model_folder
from quals_fast.models.shape import T5Shape
from quals_fast.models.t5 import T5

SHAPES = {
    "t5-small": T5Shape(
        vocab_size=32_128, d_model=512, d_kv=64, d_ff=2_048, num_layers=6, num_decoder_layers=6,
        num_heads=8,
    ),
    "t5-base": T5Shape(
        vocab_size=32_128, d_model=768, d_kv=64, d_ff=3_072, num_layers=12, num_decoder_layers=12,
        num_heads=12,
    ),
    "flan-t5-base": T5Shape(
        vocab_size=32_128, d_model=768, d_kv=64, d_ff=2_048, num_layers=12, num_decoder_layers=12,
        num_heads=12, feed_forward_proj="gated-gelu", tie_word_embeddings=False,
    ),
    "flan-t5-large": T5Shape(
        vocab_size=32_128, d_model=1_024, d_kv=64, d_ff=2_816, num_layers=24,
        num_decoder_layers=24, num_heads=16, feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
    ),
}  # fmt: skip
SPECIAL = ("<pad>", "</s>", "<unk>")  # ids 0 to 2
PAD, END = 0, 1
MAX_SOURCE_TOKENS = 1_024  # as the bundled model's

COPYING_HEADS = 4  # as many common words as they have dimensions
NOISE = 0.02  # of what is added to hidden states at random, relative to them
MARK = 4.0  # in the dimensions of an embedding that say something
SURE = 20.0  # nats: between what an attention looks at and all else
WORD, CLASS = 6.0, 12.0  # nats: of words in the source above other common ones, of these above all
SHORTEST_QUESTION = 7  # tokens, about
QUESTION_ENDS, ANSWER_ENDS = 0.3, 6.0  # nats above those of a word in the source


def write_t5(shape: T5Shape, folder: Path, *, words_vary: bool = False) -> None:
    """Make a model and write it as Hugging Face would.

    Args:
        shape: its sizes: six heads or more, and `vocab_size` for the tokenizer.
        folder: does not exist yet.
        words_vary: whether the random blocks of the decoder change which words are likely.
    """
    tokenizer, words = unigram_tokenizer(COPYING_HEADS * shape.d_kv)
    sep = tokenizer.get_vocab()["<sep>"]
    config: dict[str, Any] = {
        "model_type": "t5",
        "architectures": ["T5ForConditionalGeneration"],
        **asdict(shape),
        "is_encoder_decoder": True,
        "pad_token_id": PAD,
        "eos_token_id": END,
        "decoder_start_token_id": PAD,
        "sep_token_id": sep,
        "max_source_tokens": MAX_SOURCE_TOKENS,
        "dtype": "float32",
    }
    # Its random numbers are its own: making it changes nothing in the program that asks for it.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = random_t5(shape)
        if shape.tie_word_embeddings:
            let_ask(network, words, sep, words_vary=words_vary)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    tokenizer.save(str(folder / "tokenizer.json"))
    weights = network.state_dict()
    del weights["final_logits_bias"]  # Hugging Face's T5 has none
    save_file({n: w.contiguous() for n, w in weights.items()}, folder / "model.safetensors")


def unigram_tokenizer(n_words: int) -> tuple[Tokenizer, list[int]]:
    """Return T5's kind of tokenizer, and the ids of the commonest words.

    It spells a text with the fewest pieces, of which the commonest are taken.
    """
    bundled = Tokenizer.from_file(str(model_folder("qagen-mini") / "tokenizer.json"))
    vocabulary = bundled.get_vocab()
    by_rank = sorted(vocabulary, key=vocabulary.__getitem__)  # BERT's begins with the commonest
    spelled = [p for p in by_rank if not p.startswith("[")]
    whole = [piece for piece in spelled if not piece.startswith("##")]
    pieces = [f"▁{piece}" for piece in whole]
    pieces += [p.removeprefix("##") for p in spelled if p.startswith("##") or len(p) == 1]
    pieces = list(dict.fromkeys([*pieces, "▁"]))
    extra = [f"<extra_id_{i}>" for i in reversed(range(100))]
    vocab = [(token, 0.0) for token in SPECIAL]
    vocab += [(piece, -8.0 - 4.0 * rank / len(pieces)) for rank, piece in enumerate(pieces)]
    vocab += [(token, 0.0) for token in extra]
    tokenizer = Tokenizer(models.Unigram(vocab, unk_id=2, byte_fallback=False))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Lowercase(), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    metaspace: dict[str, Any] = {"replacement": "▁", "prepend_scheme": "always", "split": True}
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(**metaspace)]
    )
    tokenizer.decoder = decoders.Metaspace(**metaspace)
    tokenizer.add_special_tokens(
        [AddedToken(token, normalized=False) for token in (*SPECIAL, *extra, "<sep>")]
    )
    words = [f"▁{piece}" for piece in whole if len(piece) > 1 and piece.isalpha()]
    ids = tokenizer.get_vocab()
    return tokenizer, [ids[word] for word in words[:n_words]]


def random_t5(shape: T5Shape) -> T5:
    """Return a network with random weights, which add little to its hidden states."""
    network = T5(shape).eval().requires_grad_(False)
    for name, weight in network.named_parameters():
        if weight.ndim == 1:
            continue
        std = 1.0 if "shared" in name or "bias" in name else weight.shape[1] ** -0.5
        if name.endswith(".q.weight"):  # scores are not divided by sqrt(D)
            std *= shape.d_kv**-0.5
        if name.endswith((".o.weight", ".wo.weight")):
            std *= NOISE
        weight.normal_(0, std)
    return network


class Dimensions(NamedTuple):
    """Of hidden states; those behind them are random.

    Attributes:
        is_common: `MARK` for common words and special tokens, -`MARK` for all others.
        is_sep: the last token is SEP.
        is_start: it is the first input of the decoder.
        sep_seen: 1 after SEP.
        start_share: 1 / n in the n-th position.
        sep: makes SEP likelier.
        end: makes EOS likelier.
    """

    is_common: int
    is_sep: int
    is_start: int
    sep_seen: int
    start_share: int
    sep: int
    end: int


def let_ask(network: T5, words: Sequence[int], sep: int, *, words_vary: bool) -> None:
    """Set what lets a random network ask with words of the source.

    The first dimensions of hidden states are one for each common word.

    Args:
        network: is changed.
        words: ids of the common words.
        sep: id of the separator.
        words_vary: as for `write_t5`.
    """
    shape, n_words = network.shape, len(words)
    at = Dimensions(*range(n_words, n_words + len(Dimensions._fields)))
    for name, weight in network.named_parameters():
        if name.endswith((".o.weight", ".wo.weight")):
            is_free = words_vary and name.startswith("decoder.block.") and ".block.0." not in name
            weight[n_words if is_free else 0 : at.end + 1] = 0.0
    _set_embedding(network, words, sep, at)
    attend, cross, feed_forward = network.decoder.block[0].layer  # type: ignore[misc]
    own, source = attend.SelfAttention, cross.EncDecAttention
    bias = own.relative_attention_bias.weight
    bias[:, : COPYING_HEADS + 2] = 0.0
    bias[0, :COPYING_HEADS] = SURE  # a token itself
    for part, sign in ((own, -1.0), (source, 1.0)):  # takes the last word away, copies the source's
        for weight, value in ((part.v.weight, 1.0), (part.o.weight.T, sign)):
            weight[:n_words] = 0.0
            weight[range(n_words), range(n_words)] = value
    own.q.weight[:n_words] = 0.0
    see, count = (
        slice(h * shape.d_kv, (h + 1) * shape.d_kv) for h in (COPYING_HEADS, COPYING_HEADS + 1)
    )
    for rows in (see, count):
        for weight in (own.q.weight, own.k.weight, own.v.weight, own.o.weight.T):
            weight[rows] = 0.0
    own.q.weight[see.start, at.is_common] = SURE / MARK**2
    own.k.weight[see.start, at.is_sep] = 1.0
    own.v.weight[see.start, at.is_sep] = own.v.weight[count.start, at.is_start] = 1.0
    own.o.weight[at.sep_seen, see.start] = own.o.weight[at.start_share, count.start] = 1 / MARK
    _set_feed_forward(feed_forward.DenseReluDense, n_words, at)


def _set_embedding(network: T5, words: Sequence[int], sep: int, at: Dimensions) -> None:
    """Give each token its marks, and all tokens the same norm; let the LM head read the marks."""
    shape, n_words = network.shape, len(words)
    table, random = network.shared.weight, slice(at.end + 1, None)
    table[:, : random.start] = 0.0
    table[:, at.is_common] = -MARK
    table[[*words, sep, PAD, END], at.is_common] = MARK
    table[words, range(n_words)] = MARK
    table[[sep, sep, PAD, END], [at.is_sep, at.sep, at.is_start, at.end]] = MARK
    marks = table[:, : random.start].square().sum(1, keepdim=True)
    norms = table[:, random].norm(dim=1, keepdim=True)
    table[:, random] *= (shape.d_model - marks).sqrt() / norms
    reads = network.decoder.final_layer_norm.weight
    one_nat = shape.d_model**0.5 / MARK  # of a hidden state of 1
    reads[:] = NOISE
    reads[:n_words] = reads[[at.sep, at.end]] = WORD * one_nat
    reads[at.is_common] = CLASS / 2 / MARK * one_nat


def _set_feed_forward(layer: Any, n_words: int, at: Dimensions) -> None:
    """Make a word's dimension 1 if it is in the source, and let SEP and EOS come in time."""
    into, out = layer.wi.weight, layer.wo.weight.T
    word = range(n_words)
    units = 2 * n_words
    into[: units + 4] = out[: units + 4] = 0.0
    some = 0.01 * MARK  # of the attention, on words that are in the source
    for first, threshold, sign in ((0, 0.0, 1.0), (n_words, 1.0, -1.0)):
        rows = range(first, first + n_words)
        into[rows, word] = 1 / some
        into[rows, at.is_common] = -threshold / MARK
        out[rows, word] = sign
    always, seen, early, just_seen = range(units, units + 4)
    into[always, at.is_common] = 1 / MARK
    into[seen, at.sep_seen] = 1.0
    into[early, at.start_share] = SURE
    into[early, at.is_common] = -SURE / SHORTEST_QUESTION / MARK
    into[just_seen, at.is_sep] = 1 / MARK
    never = 3.0
    out[[always, seen, early], at.sep] = torch.tensor(
        [1 + QUESTION_ENDS / WORD, -never - MARK, -1.0]
    )
    out[[always, seen, just_seen], at.end] = torch.tensor(
        [-never, never + 1 + ANSWER_ENDS / WORD, -never]
    )
