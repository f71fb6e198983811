"""The T5 network against transformers' own, over random sizes."""

import copy
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from quals_fast_kernels._compat import HAS_TRITON
from transformers import T5Config, T5ForConditionalGeneration
from transformers.models.t5.modeling_t5 import T5Attention

from quals_fast.models.lm_head import CpuLMHead
from quals_fast.models.shape import T5Shape
from quals_fast.models.slots import DenseSlots, DistinctSlots
from quals_fast.models.t5 import T5, relative_buckets
from quals_fast.models.targets import pack
from quals_fast.ops import EAGER, TRITON
from quals_fast.reference.tolerances import TOKEN_LOGPROB

VOCAB = 24


@st.composite
def shapes(draw):
    return T5Shape(
        vocab_size=VOCAB,
        d_model=draw(st.integers(8, 24)),
        d_kv=draw(st.integers(2, 9)),
        d_ff=draw(st.integers(4, 32)),
        num_layers=draw(st.integers(1, 3)),
        num_decoder_layers=draw(st.integers(1, 3)),
        num_heads=draw(st.integers(1, 4)),
        relative_attention_num_buckets=draw(st.sampled_from([4, 6, 8, 32])),
        relative_attention_max_distance=draw(st.sampled_from([17, 20, 128])),
        layer_norm_epsilon=draw(st.sampled_from([1e-6, 1e-3])),
        feed_forward_proj=draw(st.sampled_from(["relu", "gated-gelu"])),
        tie_word_embeddings=draw(st.booleans()),
    )


def both(shape, seed):
    """transformers' network with random weights, and ours with the same ones."""
    torch.manual_seed(seed)
    theirs = T5ForConditionalGeneration(T5Config(**asdict(shape), decoder_start_token_id=0)).eval()
    if not shape.tie_word_embeddings:  # transformers 5 ties it all the same
        theirs.lm_head.weight = torch.nn.Parameter(torch.empty(VOCAB, shape.d_model))
    for name, weight in theirs.requires_grad_(False).named_parameters():
        is_norm = weight.ndim == 1
        weight.normal_(float(is_norm), 1.0 if "shared" in name else 0.15)
    ours = T5(shape).eval().requires_grad_(False)
    theirs_by_name = theirs.state_dict()
    ours.load_state_dict(
        {name: theirs_by_name.get(name, bias) for name, bias in ours.state_dict().items()}
    )
    return theirs, ours


def texts(seed):
    """Two sources of up to 41 tokens, and three targets of 30 tokens for each."""
    torch.manual_seed(seed)
    mask = torch.arange(41) < torch.tensor([[41], [29]])
    return torch.randint(VOCAB, (2, 41)), mask, torch.randint(VOCAB, (2, 3, 30))


def of_transformers(network, source, mask, targets):
    """Hidden states of sources and targets, and log-probabilities of all tokens."""
    out = network(
        input_ids=source.repeat_interleave(3, 0),
        attention_mask=mask.repeat_interleave(3, 0),
        decoder_input_ids=targets.flatten(0, 1),
        output_hidden_states=True,
    )
    hidden = out.decoder_hidden_states[-1].unflatten(0, (2, 3))
    logprobs = out.logits.float().log_softmax(-1).unflatten(0, (2, 3))
    return out.encoder_last_hidden_state[::3][mask], hidden, logprobs


def of_ours(network, source, mask, targets):
    """The same."""
    encoded = network.encode_hidden(source, mask)
    hidden = network.decode_teacher_forced(targets, network.project(encoded, mask))
    head = CpuLMHead(network.lm_head_weight.float(), network.final_logits_bias, EAGER)
    logprobs = head._logprobs(hidden.float().flatten(0, 2)).unflatten(0, hidden.shape[:3])
    return encoded[mask], hidden / network.output_scale, logprobs


@settings(max_examples=60, deadline=None)
@given(shapes(), st.integers(0, 2**20))
def test_equal_to_transformers(shape, seed):
    theirs, ours = both(shape, seed)
    inputs = texts(seed)
    with torch.inference_mode():
        pairs = zip(of_ours(ours, *inputs), of_transformers(theirs, *inputs), strict=True)
        for found, expected in pairs:
            close(found, expected)


@settings(max_examples=20, deadline=None)
@given(shapes(), st.integers(0, 2**20))
def test_steps_and_packed_targets_are_decoded_as_padded_ones(shape, seed):
    _, network = both(shape, seed)
    source, mask, targets = texts(seed)
    targets[:, :, 0] = 0  # a search begins alike in all slots
    labels = targets.roll(-1, 2)
    lengths = torch.tensor([[30, 4, 17], [0, 30, 1]])
    with torch.inference_mode():
        memory = network.encode(source, mask)
        expected = network.decode_teacher_forced(targets, memory)
        packed = pack(labels, lengths, 0, int(lengths.sum()) + 3, 60)
        found = network.decode_packed(packed, network.encode_hidden(source, mask), mask)
        on_host, on_tensors = DistinctSlots(memory, 3, 30), DenseSlots(memory, 3, 30, EAGER)
        everything, own = np.ones((2, 3), bool), np.arange(3)[None].repeat(2, 0)
        for t in range(30):
            tokens = targets[:, :, t]
            rows = on_host.arrange(tokens.numpy(), own, everything, t)
            hidden = on_host.trim(network.decode_step(rows, t, on_host))
            close(torch.from_numpy(on_host.spread(hidden)), expected[:, :, t])
            tokens = tokens if t else tokens[:, :1]
            rows = on_tensors.arrange(tokens, torch.from_numpy(own) if t else None, t)
            hidden = on_tensors.spread(network.decode_step(rows, t, on_tensors))
            close(hidden.expand(2, 3, -1), expected[:, :, t])
    is_token = torch.arange(30) < lengths[..., None]
    close(found[: int(lengths.sum())], expected[is_token])


@pytest.mark.skipif(not HAS_TRITON, reason="Triton is not installed")
@settings(max_examples=2, deadline=None)
@given(shapes(), st.sampled_from([8, 16, 24]), st.integers(0, 2**20))
def test_the_kernels_compute_what_pytorch_does(shape, d_kv, seed):
    _, network = both(replace(shape, d_kv=d_kv), seed)
    on_kernels = copy.deepcopy(network)
    on_kernels.run_by(TRITON)
    source, mask, targets = texts(seed)
    lengths = torch.tensor([[7, 4, 0], [0, 30, 1]])
    packed = pack(targets, lengths, 0, int(lengths.sum()) + 3, 32)
    with torch.inference_mode():
        hidden = network.encode_hidden(source, mask)
        close(on_kernels.encode_hidden(source, mask)[mask], hidden[mask])
        memories = [one.project(hidden, mask) for one in (network, on_kernels)]
        padded, of_kernels = (
            one.decode_teacher_forced(targets[:, :, :9], memory)
            for one, memory in zip((network, on_kernels), memories, strict=True)
        )
        close(of_kernels, padded)
        expected = network.decode_packed(packed, hidden, mask)
        found = on_kernels.decode_packed(packed, hidden, mask)
        close(found[: int(lengths.sum())], expected[: int(lengths.sum())])
        slots = [
            DenseSlots(memory, 3, 30, kernels)
            for memory, kernels in zip(memories, (EAGER, TRITON), strict=True)
        ]
        beam_idx = None
        for t in range(6):
            tokens = targets[:, :, t] if t else targets[:, :1, 0]
            expected, found = (
                one.decode_step(of.arrange(tokens, beam_idx, t), t, of)
                for one, of in zip((network, on_kernels), slots, strict=True)
            )
            close(found, expected)
            beam_idx = torch.randint(3, (2, 3))


def close(found, expected):
    torch.testing.assert_close(found, expected, atol=TOKEN_LOGPROB, rtol=0)


@pytest.mark.parametrize("is_causal", [False, True], ids=["encoder", "decoder"])
@pytest.mark.parametrize("buckets", [4, 10, 32])
@pytest.mark.parametrize("max_distance", [17, 128])
def test_every_distance_has_the_bucket_that_transformers_gives_it(is_causal, buckets, max_distance):
    relative = torch.arange(-1100, 1101)
    expected = T5Attention._relative_position_bucket(
        relative, bidirectional=not is_causal, num_buckets=buckets, max_distance=max_distance
    )
    found = relative_buckets(relative, buckets, max_distance, is_causal=is_causal)
    assert found.tolist() == expected.tolist()
    assert found.max() == buckets - 1


def test_in_bfloat16_no_farther_off_than_transformers():
    shape = T5Shape(
        vocab_size=VOCAB, d_model=48, d_kv=8, d_ff=96, num_layers=8, num_decoder_layers=8,
        num_heads=6, feed_forward_proj="gated-gelu", tie_word_embeddings=False,
    )  # fmt: skip
    theirs, ours = both(shape, 0)
    inputs = texts(0)
    with torch.inference_mode():
        truth = of_transformers(theirs, *inputs)[2]
        of_theirs = of_transformers(theirs.bfloat16(), *inputs)[2]
        found = of_ours(ours.bfloat16(), *inputs)[2]
    # Two roundings of one thing: which of them is nearer differs from one PyTorch to the next.
    assert 0 < (found - truth).abs().mean() <= 1.2 * (of_theirs - truth).abs().mean()
