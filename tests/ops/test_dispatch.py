"""Which backend runs, and how loudly that changes."""

import subprocess
import sys

import pytest
import torch

from gptfast.errors import UserError
from gptfast.ops import (
    attention,
    backends,
    decode_attention,
    dispatch,
    layer_norm,
    linear_cross_entropy,
    quantized_linear,
    rms_norm,
    rotary,
    set_backend,
    use_backend,
)
from gptfast.ops.dispatch import BACKENDS
from gptfast.ops.quantized_blocks import quantize_blocks

q = torch.randn(1, 2, 5, 8, generator=torch.Generator().manual_seed(0))
OPS = {
    "attention": lambda **kwargs: attention(q, q, q, **kwargs),
    "decode_attention": lambda **kwargs: decode_attention(q[:, :, :1], q, q, **kwargs),
    "layer_norm": lambda **kwargs: layer_norm(q, **kwargs),
    "linear_cross_entropy": lambda **kwargs: linear_cross_entropy(
        q[0, 0], q[0, 1], torch.arange(5), **kwargs
    ),
    "quantized_linear": lambda **kwargs: quantized_linear(
        torch.ones(2, 32), quantize_blocks(torch.eye(3, 32), "q8_0"), "q8_0", **kwargs
    ),
    "rms_norm": lambda **kwargs: rms_norm(q, **kwargs),
    "rotary": lambda **kwargs: rotary(q, q, q[0, 0, :, :4], q[0, 1, :, :4], **kwargs)[0],
}

WITH_KERNEL = [op for op in OPS if "triton" in dispatch.offered(op)]


@pytest.fixture
def notices(monkeypatch, caplog):
    """Return a function that returns the notices so far, the first of this process."""
    monkeypatch.setattr(dispatch, "_noticed", set())
    return lambda: [r.getMessage() for r in caplog.records if r.name == "gptfast.ops"]


@pytest.mark.parametrize("op", OPS)
def test_an_unknown_backend_is_refused(op):
    with pytest.raises(UserError, match=f"{op}: backend is 'cuda'; use 'auto' or .*'reference'"):
        OPS[op](backend="cuda")


@pytest.mark.parametrize("op", WITH_KERNEL)
def test_a_backend_asked_for_by_name_never_falls_back(op):
    with pytest.raises(UserError, match=r"TRITON_INTERPRET=1|not installed"):
        OPS[op](backend="triton")


def test_a_backend_that_the_op_lacks_is_refused_by_name_but_not_as_the_default():
    for op, lacking in (("rotary", "torch"), ("quantized_linear", "triton")):
        with pytest.raises(UserError, match=f"{op}: backend is '{lacking}'; use 'auto' or one of"):
            OPS[op](backend=lacking)
        with use_backend(lacking):
            assert torch.equal(OPS[op](), OPS[op](backend="auto"))


@pytest.fixture
def _kernels_first(monkeypatch):
    """`auto` prefers the kernels, as on CUDA where they were measured to be the fastest."""
    monkeypatch.setattr(dispatch, "preference", lambda work, device: BACKENDS)
    monkeypatch.setattr(dispatch, "TRITON_INSTALLED", False)


@pytest.mark.usefixtures("_kernels_first")
def test_auto_says_once_why_it_falls_back(notices):
    for _ in range(2):
        out = attention(q, q, q)
    assert torch.equal(out, attention(q, q, q, backend="torch"))
    assert notices() == [
        "attention: using backend 'torch' instead of 'triton': "
        "triton is not installed; pip install triton"
    ]


def test_the_ordinary_path_says_nothing(notices):
    for op in OPS:
        usual = "torch" if "torch" in dispatch.offered(op) else "reference"
        assert torch.equal(OPS[op](), OPS[op](backend=usual))
    assert notices() == []


@pytest.mark.usefixtures("_kernels_first")
def test_the_notice_does_not_break_a_compiled_graph(notices):
    compiled = torch.compile(OPS["attention"], fullgraph=True, backend="eager")
    compiled()
    assert len(notices()) == 1


def test_backends_names_one_choice_for_each_op():
    rows = backends()
    assert [row[:2] for row in rows] == [(op, name) for op in OPS for name in dispatch.offered(op)]
    for op in OPS:
        assert [reason for name, _, reason in rows if name == op].count(None) == 1


def test_what_is_too_old_is_named(monkeypatch):
    assert dispatch.release("3.10.1+git1") > dispatch.OLDEST_TRITON > dispatch.release("3.5.1")
    monkeypatch.setattr(dispatch, "TRITON_VERSION", "3.5.1")
    with pytest.raises(UserError, match=r"this is Triton 3\.5\.1; the kernels need 3\.6 or newer"):
        attention(q, q, q, backend="triton")
    done = run("import torch; torch.__version__ = '2.10.1'; import gptfast.ops")
    assert "UserError: this is PyTorch 2.10.1; gptfast needs 2.11 or newer" in done.stderr


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_importing_the_ops_imports_no_triton():
    done = run("import sys, gptfast.ops; assert 'triton' not in sys.modules")
    assert done.returncode == 0, done.stderr


def test_a_machine_without_triton_works():
    done = run(
        "import sys; sys.modules['triton'] = None\n"
        "import torch; from gptfast.ops import attention\n"
        "q = torch.ones(1, 1, 2, 4); attention(q, q, q)\n"
        "attention(q, q, q, backend='triton')"
    )
    assert "UserError: attention: backend 'triton' can't serve these inputs" in done.stderr
    assert "triton is not installed" in done.stderr


# ---- the process's default -----------------------------------------------------------------------


@pytest.fixture
def _auto():
    yield
    set_backend("auto")


@pytest.mark.usefixtures("_auto")
@pytest.mark.parametrize("op", WITH_KERNEL)
def test_an_op_without_a_backend_takes_the_default(op, monkeypatch):
    asked = []
    monkeypatch.setattr(dispatch, "TRITON_INSTALLED", False)
    set_backend("triton")
    with pytest.raises(UserError, match=f"{op}: backend 'triton' can't serve"):
        OPS[op]()
    OPS[op](backend="reference")  # a name wins over the default
    set_backend("auto")
    monkeypatch.setattr(dispatch, "preference", lambda work, device: asked.append(work) or BACKENDS)
    OPS[op]()
    assert len(asked) == 1


def test_the_default_holds_within_its_block_only():
    with use_backend("triton"):
        with use_backend("reference"):
            layer_norm(q)
        with pytest.raises(UserError, match="backend 'triton' can't serve"):
            layer_norm(q)
    layer_norm(q)
    with pytest.raises(ZeroDivisionError), use_backend("triton"):
        raise ZeroDivisionError
    layer_norm(q)


def test_rotary_takes_its_definition_where_the_default_is_pytorchs():
    with use_backend("torch"):
        rotated = OPS["rotary"]()
    assert torch.equal(rotated, OPS["rotary"](backend="reference"))


def test_an_unknown_default_is_refused():
    with pytest.raises(UserError, match="backend is 'cuda'; use 'auto' or one of"):
        set_backend("cuda")


def test_a_compiled_function_follows_the_default_without_a_graph_break():
    torch._dynamo.reset()
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(lambda x: rms_norm(x) * 2, fullgraph=True, backend=backend)
    for name in ("torch", "reference", "torch", "reference"):
        with use_backend(name):
            torch.testing.assert_close(compiled(q), 2 * rms_norm(q, backend="reference"))
    assert len(graphs) == 2  # one for each, compiled once
    assert ["rms_norm" in graph.code for graph in graphs] == [True, False]
