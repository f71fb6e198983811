"""A linear layer and its GELU, against float64."""

import pytest
import torch
from op_cases import (
    DEVICE,
    eager_and_triton,
    error,
    errs_no_more_than_eager,
    needs_no_triton,
    needs_triton,
    on_gpu,
)
from quals_fast_kernels.linear_gelu import linear_gelu_ref, linear_gelu_triton
from torch.nn import functional as F

both = eager_and_triton("run", linear_gelu_ref, linear_gelu_triton)

SHAPES = [  # rows, d, M
    pytest.param((1, 1, 1), id="N1-d1-M1"),
    pytest.param((15, 16, 31), id="N15-d16-M31"),
    pytest.param((16, 63, 32), id="N16-d63-M32"),
    pytest.param((17, 64, 33), id="N17-d64-M33"),
    pytest.param((60, 65, 96), id="N60-d65-M96"),
    pytest.param((61, 16, 128), id="N61-d16-M128"),
    pytest.param((64, 128, 7), id="N64-d128-M7"),
    pytest.param((65, 40, 129), id="N65-d40-M129"),  # larger blocks from here on
    pytest.param((128, 16, 40), id="N128-d16-M40"),
    pytest.param((130, 24, 256), id="N130-d24-M256"),
]


def inputs(rows, width, out_width, dtype=torch.float32):
    x, weight, bias = (
        torch.randn(shape) for shape in ((rows, width), (out_width, width), (out_width,))
    )
    return tuple(part.to(DEVICE, dtype) for part in (3 * x, weight / width**0.5, bias))


def truth(x, weight, bias):
    return F.gelu(F.linear(*(part.double().cpu() for part in (x, weight, bias))))


@both
@pytest.mark.parametrize("shape", SHAPES)
def test_equal_to_the_definition(run, shape):
    case = inputs(*shape)
    found = run(*case)
    assert found.dtype == torch.float32
    assert error(found, truth(*case)) <= 1e-5


def check_half_precision(dtype, shape):
    case = inputs(*shape, dtype=dtype)
    errs_no_more_than_eager(linear_gelu_triton, linear_gelu_ref, truth(*case), case)


@needs_triton
@pytest.mark.parametrize("shape", SHAPES)
def test_half_precision_errs_no_more_than_eager(shape):
    check_half_precision(torch.float16, shape)


# The interpreter gets products of bfloat16 wrong, so bfloat16 is tested only here.
@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(60, 1024, 4096), (3361, 768, 3072), (61, 100, 1003)], ids=str)
def test_half_precision_errs_no_more_than_eager_on_the_device(dtype, shape):
    check_half_precision(dtype, shape)


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_a_row_has_the_same_bits_in_any_batch(dtype):
    x, *layer = inputs(200, 384, 1003, dtype)
    together = linear_gelu_triton(x, *layer)
    for rows in (slice(0, 60), slice(77, 78), slice(30, 160)):
        assert torch.equal(linear_gelu_triton(x[rows], *layer), together[rows])


@needs_triton
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the interpreter's numpy meets nan
def test_a_row_does_not_depend_on_the_others():
    x, *layer = inputs(70, 40, 70)
    for rows in (x[:61], x):  # blocks of 64 rows, and of 128
        expected = linear_gelu_triton(rows, *layer)[17:18]
        assert torch.equal(linear_gelu_triton(rows[17:18], *layer), expected)
        others = torch.full_like(rows, torch.nan)
        others[::2], others[17] = torch.inf, rows[17]
        assert torch.equal(linear_gelu_triton(others, *layer)[17:18], expected)


@needs_triton
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_large_values_are_themselves_or_nothing(dtype):
    x = torch.tensor([[300.0], [-300.0], [0.0]], dtype=dtype, device=DEVICE)
    found = linear_gelu_triton(x, torch.ones_like(x[:1]), torch.zeros_like(x[0]))
    assert found.flatten().tolist() == [300.0, 0.0, 0.0]


@needs_triton
def test_more_dimensions_and_views_with_strides_are_taken():
    x, weight, bias = inputs(24, 16, 33)
    expected = linear_gelu_triton(x, weight, bias)
    assert torch.equal(linear_gelu_triton(x.view(2, 3, 4, 16), weight, bias).view(24, 33), expected)
    wide_x, wide_weight = (F.pad(part, (0, 4))[:, :16] for part in (x, weight))
    assert torch.equal(linear_gelu_triton(wide_x, wide_weight, bias), expected)
    swapped = x.view(4, 6, 16).transpose(0, 1)
    found = linear_gelu_triton(swapped, weight, bias)
    assert torch.equal(found, expected.view(4, 6, 33).transpose(0, 1))


@needs_triton
def test_every_output_is_written(monkeypatch):
    case = inputs(65, 16, 130)
    expected = linear_gelu_triton(*case)
    made = torch.Tensor.new_empty
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda *a, **o: made(*a, **o).fill_(torch.nan))
    assert torch.equal(linear_gelu_triton(*case), expected)


@needs_triton
def test_no_row_is_no_result():
    assert linear_gelu_triton(*inputs(0, 8, 5)).shape == (0, 5)


@needs_triton
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": torch.zeros(2, 8).double()}, TypeError, "`x` must be torch.float32"),
        ({"x": torch.zeros(8, 2).T}, ValueError, "`x` must be contiguous in its last dimension"),
        ({"weight": torch.zeros(5, 7)}, ValueError, r"`weight` must have shape \(any, 8\)"),
        ({"weight": torch.zeros(5, 8).half()}, TypeError, "`weight` must be torch.float32"),
        (
            {"weight": torch.zeros(0, 8), "bias": torch.zeros(0)},
            ValueError,
            "`weight` must not be empty",
        ),
        ({"bias": torch.zeros(4)}, ValueError, r"`bias` must have shape \(5,\)"),
        ({"bias": torch.zeros(5).half()}, TypeError, "`bias` must be torch.float32"),
    ],
)
def test_the_launcher_refuses_what_does_not_fit(change, error, message):
    arguments = dict(zip(("x", "weight", "bias"), inputs(2, 8, 5), strict=True))
    change = {name: tensor.to(DEVICE) for name, tensor in change.items()}
    with pytest.raises(error, match=message):
        linear_gelu_triton(**(arguments | change))


@needs_no_triton
def test_without_triton_the_launcher_says_so():
    with pytest.raises(ModuleNotFoundError, match="pip install triton"):
        linear_gelu_triton(*inputs(1, 8, 5))
