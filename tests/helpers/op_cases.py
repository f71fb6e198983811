"""What the tests of the operations have in common."""

import pytest
import torch
from quals_fast_kernels._compat import HAS_TRITON

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"  # on a CPU the interpreter runs kernels
needs_triton = pytest.mark.skipif(not HAS_TRITON, reason="Triton is not installed")
needs_no_triton = pytest.mark.skipif(HAS_TRITON, reason="Triton is installed")
needs_gpu = pytest.mark.skipif(DEVICE == "cpu", reason="there is no GPU")
interpreted = pytest.mark.skipif(
    not HAS_TRITON or DEVICE == "cuda", reason="needs Triton and no GPU (interpreter)"
)
on_gpu = pytest.mark.skipif(not HAS_TRITON or DEVICE == "cpu", reason="needs Triton and a GPU")

devices = pytest.mark.parametrize(
    "device",
    [
        pytest.param("cpu", marks=interpreted),
        pytest.param("cuda", marks=[pytest.mark.gpu, on_gpu]),
    ],
)
half_precision = pytest.mark.parametrize(
    ("device", "dtype"),
    [
        pytest.param("cpu", torch.float16, marks=interpreted),  # it gets bfloat16 products wrong
        pytest.param("cuda", torch.float16, marks=[pytest.mark.gpu, on_gpu]),
        pytest.param("cuda", torch.bfloat16, marks=[pytest.mark.gpu, on_gpu]),
    ],
)

HISTORIES = [  # B, K, T, t
    pytest.param((1, 1, 1, 0), id="B1-K1-T1-t0"),
    pytest.param((3, 5, 7, 0), id="B3-K5-T7-t0"),
    pytest.param((2, 5, 7, 6), id="B2-K5-T7-last"),
    pytest.param((1, 60, 61, 1), id="B1-K60-T61-t1"),
    pytest.param((1, 5, 61, 15), id="B1-K5-T61-t15"),
    pytest.param((1, 5, 61, 16), id="B1-K5-T61-t16"),
    pytest.param((2, 5, 61, 17), id="B2-K5-T61-t17"),
    pytest.param((3, 60, 61, 60), id="B3-K60-T61-last"),
    pytest.param((2, 3, 64, 63), id="B2-K3-T64-last"),
    pytest.param((2, 3, 600, 257), id="B2-K3-T600-t257"),
]


def eager_and_triton(argument, reference, kernel):
    """Run a test with the eager reference and with the kernel."""
    return pytest.mark.parametrize(
        argument,
        [
            pytest.param(reference, id="eager"),
            pytest.param(kernel, id="triton", marks=needs_triton),
        ],
    )


def error(found, expected):
    """Return the largest difference; infinite where something is NaN."""
    assert found.shape == expected.shape
    worst = (found.double().cpu() - expected).abs().max().item()
    return torch.inf if worst != worst else worst


def errs_no_more_than_eager(kernel, reference, expected, case):
    """Check a kernel's error: at most twice that of eager torch in the same type."""
    found = kernel(*case)
    assert found.dtype == case[0].dtype
    assert found.is_contiguous()
    ours, theirs = error(found, expected), error(reference(*case), expected)
    assert ours <= 2 * theirs + 1e-5, f"{ours} against {theirs} of eager"


def assert_same(found, expected):
    """Compare tensors one by one, to the last bit."""
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
