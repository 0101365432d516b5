"""The Triton attention of few queries to a cache, against the definition in float64."""

import pytest
import torch

from gptfast.errors import UserError
from gptfast.kernels import decode_attention as kernels
from gptfast.ops import decode_attention
from gptfast.ops.decode_attention import decode_attention_reference
from tolerances import assert_close

pytestmark = pytest.mark.usefixtures("_poisoned")


def inputs(device, B=2, H=2, G=2, T=1, S=300, D=16, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    shapes = ((B, H, T, D), (B, G, S, D), (B, G, S, D))
    return [torch.randn(shape, generator=generator).to(device, dtype) for shape in shapes]


def check(q, k, v, lengths=None, **options):
    actual = decode_attention(q, k, v, lengths, backend="triton", **options)
    expected = decode_attention_reference(q.double(), k.double(), v.double(), lengths, **options)
    assert actual.dtype == q.dtype
    assert_close("decode_attention", actual, expected)


@pytest.mark.parametrize(
    ("sizes", "lengths", "options"),
    [
        ({}, None, {}),
        ({}, [1, 300], {}),
        ({}, [64, 65], {"scale": 0.7}),  # to the end of a block, and one further
        ({"T": 3}, [3, 130], {"scale": -0.7}),
        ({"T": 3, "H": 12, "G": 2}, [77, 200], {}),
        ({"H": 6, "G": 1, "D": 80, "dtype": torch.float16}, [20, 290], {}),
        ({"S": 1}, None, {}),
        ({"S": 40, "D": 200}, [7, 33], {}),
        ({"D": 256, "dtype": torch.float16}, [7, 300], {}),
        ({}, [150, 300], {"window": 70}),
        ({"T": 4}, [5, 258], {"window": 1}),  # windows on both sides of a block edge
        pytest.param(
            {"B": 300, "S": 70},
            None,
            {},  # more heads than programs: one part
            marks=pytest.mark.skipif(
                not torch.cuda.is_available(), reason="600 programs take the interpreter long"
            ),
        ),
    ],
    ids=str,
)
def test_agrees_with_the_definition(sizes, lengths, options, device):
    lengths = None if lengths is None else torch.tensor(lengths, device=device)
    check(*inputs(device, **sizes), lengths, **options)


@pytest.mark.parametrize("programs", [3, 8])  # one part of three blocks; parts of two and of one
def test_a_part_of_several_blocks(programs, device, monkeypatch):
    monkeypatch.setattr(kernels, "MAX_PROGRAMS", programs)
    check(*inputs(device), torch.tensor([170, 300], device=device))


def test_any_strides_and_lengths_of_32_bits(device):
    q, k, v = inputs(device, S=90, T=2)
    k, v = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in (k, v))  # (B, S, G, D)
    lengths = torch.tensor([[90, 0], [33, 0]], dtype=torch.int32, device=device)[:, 0]
    check(q.mT.contiguous().mT, k, v.mT.contiguous().mT, lengths)


def test_what_lies_behind_the_length_leaves_no_trace(device):
    q, k, v = inputs(device)
    lengths = torch.tensor([70, 200], device=device)
    before = decode_attention(q, k, v, lengths, backend="triton")
    for x in (k, v):
        x[0, :, 70:] = x[1, :, 200:] = float("nan")
    assert torch.equal(decode_attention(q, k, v, lengths, backend="triton"), before)


def test_registration(device):
    q, k, v = inputs(device, S=20)
    lengths = torch.tensor([7, 20], device=device)
    for options in ((None, 0.25, None), (lengths, 0.25, 5)):
        torch.library.opcheck(torch.ops.gptfast.decode_attention.default, (q, k, v, *options))


def test_compiles_without_a_graph_break(device):
    q, k, v = inputs(device, S=20)
    lengths = torch.tensor([7, 20], device=device)

    def attend(q, k, v, lengths):
        return decode_attention(q, k, v, lengths, backend="triton")

    compiled = torch.compile(attend, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(q, k, v, lengths), attend(q, k, v, lengths))


def test_what_the_kernel_does_not_serve(device):
    with pytest.raises(UserError, match="up to 64 queries for a key head, not 33 heads times 2"):
        decode_attention(*inputs(device, H=33, G=1, T=2, S=9), backend="triton")
    with pytest.raises(UserError, match="head widths up to 256, not 300"):
        decode_attention(*inputs(device, S=9, D=300), backend="triton")
