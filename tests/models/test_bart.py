"""The network as it is run on a GPU: the same parameters and results, in fewer products."""

import copy

import pytest
import tiny_models
import torch
from quals_fast_kernels._compat import HAS_TRITON
from torch import nn

from quals_fast.models import bart
from quals_fast.models.slots import DenseSlots
from quals_fast.ops import EAGER, TRITON


@pytest.fixture(scope="module")
def networks():
    """A network, and a copy of it that is run by kernels."""
    bart = tiny_models.random_bart({**tiny_models.CONFIG, "vocab_size": 20})
    for parameter in bart.parameters():
        if parameter.ndim == 1:
            parameter.normal_()
    joined = copy.deepcopy(bart)
    joined.run_by(EAGER)
    return bart, joined


def results(bart, kernels=EAGER):
    torch.manual_seed(0)
    mask = torch.arange(9) < torch.tensor([[9], [6]])
    with torch.inference_mode():
        memory = bart.encode(torch.randint(20, (2, 9)), mask)
        slots = DenseSlots(memory, 3, 4, kernels)
        slots.arrange(torch.tensor([[4], [4]]), None, 0)
        step = bart.decode_step(torch.tensor([4, 4]), 0, slots)
        forced = bart.decode_teacher_forced(torch.randint(20, (2, 3, 5)), memory)
    return memory.keys[-1], step, forced


def test_joined_projections_change_no_result(networks):
    for plain, joined in zip(*map(results, networks), strict=True):
        torch.testing.assert_close(joined, plain, atol=1e-5, rtol=1e-5)


def test_joined_projections_are_held_once_and_keep_their_names(networks):
    plain, joined = networks
    assert joined.state_dict().keys() == plain.state_dict().keys()
    for name, weight in joined.state_dict().items():
        assert torch.equal(weight, plain.state_dict()[name])
    attn = joined.model.decoder.layers[1].self_attn
    parts = attn.q_proj, attn.k_proj, attn.v_proj
    for of, whole in (("weight", attn.qkv_weight), ("bias", attn.qkv_bias)):
        storages = {getattr(part, of).untyped_storage().data_ptr() for part in parts}
        assert storages == {whole.untyped_storage().data_ptr()}


def test_weights_loaded_later_are_those_that_compute(networks):
    plain, joined = (copy.deepcopy(networks[0]) for _ in range(2))
    joined.run_by(EAGER)
    other = {name: weight * 0.5 for name, weight in plain.state_dict().items()}
    for network in (plain, joined):
        network.load_state_dict(other)
    for expected, found in zip(results(plain), results(joined), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("dtype", "rows", "is_fused"),
    [
        (torch.float16, (4, 5), True),
        (torch.bfloat16, (20,), True),
        (torch.float16, (3, 7), False),  # one more than the most
        (torch.float32, (20,), False),
    ],
    ids=str,
)
def test_gelu_is_fused_with_the_product_of_few_rows_in_half_precision(
    dtype, rows, is_fused, monkeypatch
):
    monkeypatch.setattr(bart, "MAX_FUSED_ROWS", 20)
    fused = []

    def linear_gelu(x, *layer):
        fused.append(x.shape)
        return EAGER.linear_gelu(x, *layer)

    layer = nn.Linear(8, 16).to(dtype)
    run = bart.LinearGelu(layer)
    run.linear_gelu = linear_gelu
    x = torch.randn(*rows, 8, dtype=dtype)
    assert torch.equal(run(x), nn.functional.gelu(layer(x)))
    assert fused == ([x.shape] if is_fused else [])


@pytest.mark.skipif(not HAS_TRITON, reason="Triton is not installed")
def test_kernels_err_no_more_than_eager_in_float16(networks):
    plain, _ = networks
    eager, on_kernels = (copy.deepcopy(plain).half() for _ in range(2))
    on_kernels.run_by(TRITON)
    of_both = results(eager), results(on_kernels, TRITON)
    for expected, *halves in zip(results(plain), *of_both, strict=True):
        theirs, ours = ((half.float() - expected).abs().max().item() for half in halves)
        assert 0 < ours <= 2 * theirs


@pytest.mark.parametrize("name", ["gelu", "gelu_new", "relu"])
def test_only_the_exact_gelu_is_fused(name):
    network = tiny_models.random_bart(
        {**tiny_models.CONFIG, "vocab_size": 20, "activation_function": name}
    )
    joined = copy.deepcopy(network)
    joined.run_by(EAGER)
    layers = [*joined.model.encoder.layers, *joined.model.decoder.layers]
    assert [isinstance(layer.fc1, bart.LinearGelu) for layer in layers] == [name == "gelu"] * 4
    joined.run_by(TRITON)  # changes the implementation only
    if name == "gelu":
        assert {layer.fc1.linear_gelu for layer in layers} == {TRITON.linear_gelu}
    joined.run_by(EAGER)
    for expected, found in zip(results(network), results(joined), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_mask_of_numbers_made_once_changes_no_bit(networks, dtype):
    bart = copy.deepcopy(networks[0]).to(dtype)
    ids, mask = torch.randint(20, (2, 9)), torch.arange(9) < torch.tensor([[9], [6]])
    with torch.inference_mode():
        x = bart._embed(bart.model.encoder, ids, 0)
        for layer in bart.model.encoder.layers:
            x = layer(x, mask[:, None, None])  # of bools, turned into numbers in every layer
        assert torch.equal(bart.encode_hidden(ids, mask), x)
