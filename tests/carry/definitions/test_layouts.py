"""Quantized and sparse tensors carry what was decided, in every engine."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

import sll
from oracles import leaf

MODES = ["linear", "hard", "straight-through"]
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
AT = (0.37, 0.126, 0.9, -0.376, 0.62, 80.0)


def by_tensor(x):
    return torch.quantize_per_tensor(x, 0.25, 2, torch.quint8)


def by_channel(x):
    scale, zero = torch.tensor([0.25, 0.25, 0.5]), torch.tensor([2, 2, 1])
    return torch.quantize_per_channel(x.reshape(3, 2), scale, zero, 0, torch.quint8)


def written_down(x, scale, zero):
    return ((torch.round(x / scale) + zero).clamp(0, 255) - zero) * scale


@pytest.mark.parametrize("forward", MODES)
@pytest.mark.parametrize("quantize", [by_tensor, by_channel])
def test_quantized_and_back(quantize, forward):
    x = leaf(*AT)
    with sll.linearize(0.02, forward=forward) as region:
        q = quantize(x)
        y, n = q.dequantize(), q.int_repr()
        back = n.float().reshape(-1)
    scale, zero = (0.25, 2) if quantize is by_tensor else (torch.tensor([0.25, 0.25, 0.5]).repeat_interleave(2), 2)
    if quantize is by_channel:
        zero = torch.tensor([2, 2, 2, 2, 1, 1])
    with sll.linearize(0.02, forward=forward):
        want = written_down(x, scale, zero)
    hard = quantize(x.detach()).dequantize().reshape(-1)
    if forward != "linear":
        assert torch.equal(y.detach().reshape(-1), hard) and torch.equal(n, quantize(x.detach()).int_repr())
    (slope,) = torch.autograd.grad(want.sum(), x)
    torch.testing.assert_close(torch.autograd.grad(y.sum(), x, retain_graph=True)[0], slope)
    torch.testing.assert_close(torch.autograd.grad((back * scale).sum(), x)[0], slope)
    assert slope.count_nonzero() == (4 if quantize is by_tensor else 3)
    assert not region.report().lost and not hasattr(q, "_sll")


@pytest.mark.parametrize("forward", MODES)
def test_a_table_of_how_often_is_sparse_first(forward):
    """torchmetrics counts pairs of labels so."""
    x = torch.tensor([[1.0, 1.01, 0.0], [0.0, 3.0, 1.0], [2.0, 1.995, 5.0]], requires_grad=True)
    fixed, scores = torch.tensor([0, 1, 1]), torch.arange(6.0).reshape(2, 3)
    with sll.linearize(0.02, forward=forward) as region:
        chosen = x.argmax(1)
        table = torch.sparse_coo_tensor(
            torch.stack((fixed, chosen)), torch.ones(3, dtype=torch.int64), (2, 3)
        ).to_dense()
        y = (table.float() * scores).sum()
    with sll.linearize(0.02, forward=forward):
        want = sum(scores[i, j] for i, j in zip(fixed, x.argmax(1)))
    assert table.dtype == torch.int64
    if forward != "linear":
        assert torch.equal(table, F.one_hot(fixed, 2).T @ F.one_hot(x.argmax(1), 3))
    torch.testing.assert_close(*(torch.autograd.grad(z, x)[0] for z in (y, want)))
    assert not region.report().lost


def test_too_large_a_sparse_tensor_is_reported():
    x = leaf(0.001, 1.0)
    with sll.linearize(0.02, on_lost="ignore") as region:
        places = (x > 0).long()[None] * 9_000_000
        out = torch.sparse_coo_tensor(places, torch.ones(2), (9_000_001,))
    assert out.layout == torch.sparse_coo
    assert [site.op for site in region.report().lost] == ["sparse_coo_tensor"]


ROW = torch.tensor([1.0, 2.0, 4.0, -3.0])
SPARSE = {
    "mm": lambda s: torch.sparse.mm(s.unsqueeze(0), ROW[:, None]).sum(),
    "mul": lambda s: (s * 2).to_dense() @ ROW,
    "indices": lambda s: s.coalesce().indices().sum() * 1.0,
    "sum": torch.sparse.sum,
}
QUANTIZED = {
    "slice": lambda q: q[1:].dequantize(),
    "relu": lambda q: torch.nn.functional.relu(q).dequantize(),
    "clone": lambda q: q.clone().dequantize(),
    "view": lambda q: q.view(2, 2).dequantize(),
    "cat": lambda q: torch.cat([q, q]).dequantize(),
}


@pytest.mark.parametrize("forward", ["straight-through", "hard", "linear"])
@pytest.mark.parametrize("kind, name", [("sparse", n) for n in SPARSE] + [("quantized", n) for n in QUANTIZED])
def test_what_else_is_done_with_them_is_said(kind, name, forward):
    x = torch.tensor([0.30, 0.27, 0.1, 0.0], requires_grad=True)
    with sll.linearize(0.08, forward=forward, on_lost="ignore") as region:
        if kind == "sparse":
            SPARSE[name](torch.sparse_coo_tensor(x.argmax()[None, None], torch.ones(1), (4,), check_invariants=True))
        else:
            QUANTIZED[name](torch.quantize_per_tensor(x, 0.1, 3, torch.quint8))
    assert region.report().lost


@pytest.mark.parametrize("forward", ["straight-through", "hard", "linear"])
def test_what_is_followed_is_no_loss(forward):
    x = torch.tensor([0.33, 0.27, 0.14, 0.0], requires_grad=True)
    with sll.linearize(0.3, forward=forward) as region:
        q = torch.quantize_per_tensor(x, 0.1, 3, torch.quint8)
        y = q.dequantize().sum() + q.int_repr().float().sum()
        s = torch.sparse_coo_tensor(x.argmax()[None, None], torch.ones(1), (4,), check_invariants=True)
        y = y + s.to_dense() @ ROW + q.numel() + len(s.shape)
    assert torch.autograd.grad(y, x)[0][:3].abs().min() > 0 and not region.report().lost
