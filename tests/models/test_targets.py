"""Packed targets: decoded as padded ones are, whatever is beside them."""

import pytest
import tiny_models
import torch

from quals_fast.models.loading import load_model
from quals_fast.models.targets import pack

START = 2


@pytest.fixture(scope="module")
def bart(tmp_path_factory):
    folder = tiny_models.write_checkpoint(tmp_path_factory.mktemp("targets") / "m")
    return load_model(folder, device=torch.device("cpu")).network.double()


CASES = {
    "one of one token": [[1]],
    "one source": [[3, 7, 1]],
    "sources of any number": [[3, 0, 0], [2, 5, 6], [0, 0, 0], [7, 7, 7], [1, 0, 0]],
    "the last source has none": [[4, 2], [0, 0]],
    "the first source has none": [[0, 0], [4, 2]],
}


@pytest.mark.parametrize("more", [(0, 0), (5, 3)], ids=["exact", "rounded up"])
@pytest.mark.parametrize("lengths", CASES.values(), ids=CASES)
def test_decoded_as_padded_targets_are(bart, lengths, more):
    lengths = torch.tensor(lengths)
    n_sources, n_targets = lengths.shape
    random = torch.Generator().manual_seed(0)
    vocab = bart.shape.vocab_size
    tokens = torch.randint(vocab, (n_sources, n_targets, 8), generator=random)
    source = torch.randint(vocab, (n_sources, 6), generator=random)
    mask = torch.arange(6) < torch.tensor([6, 3, 1, 5, 2])[:n_sources, None]
    n_rows = int(lengths.sum()) + more[0]
    # A source alone takes its rows as they are.
    n_slots = int(lengths.sum(1).max()) + more[1] if n_sources > 1 else n_rows
    is_token = torch.arange(8) < lengths[..., None]
    inputs = tokens.roll(1, 2)
    inputs[:, :, 0] = START
    with torch.inference_mode():
        expected = bart.decode_teacher_forced(inputs, bart.encode(source, mask))[is_token]
        targets = pack(tokens, lengths, START, n_rows, n_slots)
        found = bart.decode_packed(targets, bart.encode_hidden(source, mask), mask)
    assert found.shape == (n_rows, bart.shape.d_model)
    n = len(expected)
    torch.testing.assert_close(found[:n], expected, atol=1e-12, rtol=0)
    assert bool(found.isfinite().all())
    assert targets.labels[:n].tolist() == tokens[is_token].tolist()
    assert targets.input_ids[:n].tolist() == inputs[is_token].tolist()


def test_slots_are_rows_where_one_source_has_all():
    targets = pack(torch.arange(12).view(1, 3, 4), torch.tensor([[4, 1, 0]]), START, 6, 6)
    rows = torch.arange(6)
    assert targets.to_slots(rows).tolist() == [rows.tolist()]
    assert targets.to_rows(rows[None]).tolist() == rows.tolist()
    assert targets.input_ids[:5].tolist() == [START, 0, 1, 2, START]
    assert targets.labels[:5].tolist() == [0, 1, 2, 3, 4]


def test_a_slot_sees_its_target_up_to_itself():
    lengths = torch.tensor([[2, 1], [0, 1]])
    targets = pack(torch.zeros(2, 2, 2, dtype=torch.int64), lengths, START, 4, 3)
    assert targets.sees[0, 0].tolist() == [
        [True, False, False],
        [True, True, False],
        [False, False, True],
    ]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("n_sources", [1, 3])
def test_on_a_gpu_in_float16_as_close_as_padded_targets(n_sources):
    bart = load_model("qagen-mini", device=torch.device("cpu")).network
    random = torch.Generator().manual_seed(0)
    vocab = bart.shape.vocab_size
    tokens = torch.randint(vocab, (n_sources, 12, 61), generator=random)
    lengths = torch.randint(62, (n_sources, 12), generator=random)
    source = torch.randint(vocab, (n_sources, 128), generator=random)
    mask = torch.arange(128) < torch.tensor([128, 1, 77])[:n_sources, None]
    most = -(-int(lengths.sum(1).max()) // 16) * 16
    n_rows = -(-int(lengths.sum()) // 16) * 16
    is_token = torch.arange(61) < lengths[..., None]
    inputs = tokens.roll(1, 2)
    inputs[:, :, 0] = START

    def padded(bart, inputs, source, mask):
        return bart.decode_teacher_forced(inputs, bart.encode(source, mask)).cpu()[is_token]

    with torch.inference_mode():
        truth = padded(bart.double(), inputs, source, mask)
        bart.to("cuda", torch.float16)
        inputs, source, mask = inputs.cuda(), source.cuda(), mask.cuda()
        of_padded = (padded(bart, inputs, source, mask) - truth).abs().max()
        targets = pack(tokens.cuda(), lengths.cuda(), START, n_rows, most)
        found = bart.decode_packed(targets, bart.encode_hidden(source, mask), mask)
    error = (found.cpu()[: len(truth)] - truth).abs().max()
    assert error <= 2 * of_padded + 1e-5
