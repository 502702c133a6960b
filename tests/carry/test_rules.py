"""A function has its rule in all its spellings: values, strides and types of the plain program, nothing lost."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

import sll
from oracles import leaf, plain

SPELLINGS = {
    "reshape": lambda x: torch.reshape(input=x > 0, shape=(2, 1)),
    "squeeze": lambda x: torch.squeeze(input=x > 0),
    "sum": lambda x: torch.sum(input=x > 0, dim=0),
    "where": lambda x: torch.where(condition=x > 0, input=x, other=x),
    "gt": lambda x: torch.gt(input=x, other=0),
    "gather": lambda x: torch.gather(input=torch.arange(3.0), dim=0, index=torch.round(x).long()),
    "unsqueeze_": lambda x: (x > 0).unsqueeze_(0),
    "t_": lambda x: (x > 0).reshape(1, 2).t_(),
    "squeeze_": lambda x: (x > 0).reshape(1, 2).squeeze_(),
    "type": lambda x: (x > 0).type(),
    "none": lambda x: (x > 0) == None,  # noqa: E711
    "any_axis": lambda x: (x > 0).reshape(1, 2).any(axis=1),
    "all_keepdims": lambda x: torch.all((x > 0).reshape(1, 2), axis=0, keepdim=True),
    "index_select_axis": lambda x: torch.index_select(torch.arange(3.0), index=torch.round(x).long(), dim=0),
    "out_none": lambda x: torch.gt(x, 0, out=None),
    "count_other": lambda x: (x > 0).sum().gt(other=1),
    "count_input": lambda x: torch.gt(input=(x > 0).sum(), other=1),
    "count_not": lambda x: torch.logical_not(input=(x > 0).sum()),
    "numpy_index": lambda x: (x > 0)[np.array([0, 1])] & (x > 0)[np.array([0, 1])],
    "mixed_index": lambda x: torch.arange(9.0).reshape(3, 3)[torch.round(x).long(), np.array([0, 1])],
    "list_index": lambda x: torch.arange(9.0).reshape(3, 3)[torch.round(x).long(), [0, 1]],
    "range_index": lambda x: torch.arange(9.0).reshape(3, 3)[range(2), torch.round(x).long()],
    "atleast": lambda x: torch.atleast_1d(x[0] > 0, x[1] > 5)[1],
    "gather_0d": lambda x: torch.gather(torch.tensor(5.0), 0, torch.round(x[0] * 0).long()),
    "empty_source": lambda x: torch.zeros(2).masked_scatter((x > 0) & ~(x > 0), torch.zeros(0)),
    "broadcast": lambda x: torch.broadcast_tensors(x > 0, torch.zeros(3, 2))[0],
    "as_tensor": lambda x: torch.as_tensor(x > 0),
    "sum_to_size": lambda x: (x > 0).sum_to_size(1),
    "reversed": lambda x: reversed(x > 0),
    "cat_out": lambda x: torch.cat([x > 0, x > 5], out=torch.empty(4, dtype=torch.bool)),
    "is_view": lambda x: (x > 0)._is_view(),
}


@pytest.mark.parametrize("forward", ["linear", "hard"])
@pytest.mark.parametrize("name", SPELLINGS)
def test_spellings(name, forward):
    f, x = SPELLINGS[name], leaf(0.9, 1.2)
    want = plain(f, x.detach())
    with sll.linearize(0.01, forward=forward, on_lost="error"):
        got = f(x)
    assert type(got) is type(want)
    assert torch.equal(got, want) if isinstance(want, torch.Tensor) else got == want
    if isinstance(want, torch.Tensor):
        assert got.shape == want.shape and got.stride() == want.stride()


MODES = ("straight-through", "hard", "linear")
COLLECTED = {
    "as_tensor": lambda a, b: torch.as_tensor([a, b]),
    "asarray": lambda a, b: torch.asarray([a, b]),
    "tensor": lambda a, b: torch.tensor([a, b]),
    "tensor of one": lambda a, b: torch.tensor(torch.stack([a, b])),
    "nested": lambda a, b: torch.tensor([[a, True], [False, b]])[[0, 1], [0, 1]],
    "beside numbers": lambda a, b: torch.tensor([a, b, 0.1], dtype=torch.float64)[:2],
    "to a dtype": lambda a, b: torch.tensor([a, b], dtype=torch.int8),
    "new_tensor": lambda a, b: torch.zeros(2).new_tensor([a, b]),
}


@pytest.mark.filterwarnings("ignore:To copy construct")
@pytest.mark.parametrize("forward", MODES)
@pytest.mark.parametrize("name", COLLECTED)
def test_a_tensor_made_of_decisions_carries_them(name, forward):
    x = torch.tensor([0.02, 1.0], dtype=torch.float64, requires_grad=True)
    plain = COLLECTED[name](x.detach()[0] > 0, x.detach()[1] > 0)
    with sll.linearize(0.1, forward=forward, on_lost="error"):
        found = COLLECTED[name](x[0] > 0, x[1] > 0)
        assert found.dtype == plain.dtype and torch.equal(found.detach().bool(), plain.bool())
        (found.double() * torch.tensor([2.0, 3.0])).sum().backward()
    assert x.grad.tolist() == pytest.approx([2 / 0.2, 0])


@pytest.mark.parametrize("forward", MODES)
def test_a_list_of_floats_is_cut_as_torch_cuts_it(forward):
    x = torch.tensor([0.02, 1.0], requires_grad=True)
    with warnings.catch_warnings(), sll.linearize(0.1, forward=forward):
        warnings.simplefilter("ignore")  # (torch says so, once)
        assert not torch.tensor([x[0], x[1]]).requires_grad


ATEN = torch.ops.aten
OPERATORS = {
    "round": (lambda x: ATEN.round(x), torch.round),
    "sign.default": (lambda x: ATEN.sign.default(x), torch.sign),
    "gt.Scalar": (lambda x: ATEN.gt.Scalar(x, 0.1).double(), lambda x: (x > 0.1).double()),
    "logic": (lambda x: ATEN.bitwise_and.Tensor(x > 0.1, x < 3).double(), lambda x: ((x > 0.1) & (x < 3)).double()),
    "argmax": (lambda x: ATEN.argmax.default(x).double(), lambda x: x.argmax().double()),
    "sum": (lambda x: ATEN.sum.default(x > 0.1).double(), lambda x: (x > 0.1).sum().double()),
}


@pytest.mark.parametrize("forward", MODES)
@pytest.mark.parametrize("name", OPERATORS)
def test_operators_of_aten_are_the_functions_of_torch(name, forward):
    found = []
    for program in OPERATORS[name]:
        x = torch.tensor([0.08, 0.55, 0.5], dtype=torch.float64, requires_grad=True)
        with sll.linearize(0.1, forward=forward, on_lost="error"):
            y = program(x)
        found.append((y.detach(), torch.autograd.grad((y * torch.arange(1.0, 4)).sum(), x)[0]))
    torch.testing.assert_close(*found)
    assert found[0][1].any()


@pytest.mark.parametrize("forward", MODES)
@pytest.mark.parametrize("number", [int, float, bool, torch.Tensor.item, torch.Tensor.tolist])
def test_whole_numbers_that_python_takes_are_reported(number, forward):
    for at, open_ in ((0.48, True), (0.2, False)):
        x = torch.tensor(at, requires_grad=True)
        with sll.linearize(0.05, forward=forward, on_lost="error") as region:
            if open_:
                with pytest.raises(sll.LostGradientError, match="paths=2"):
                    number(torch.round(x))
            else:
                number(torch.round(x))
        assert len(region.report().lost) == 1
        with sll.linearize(0.05, forward=forward, on_lost="error") as region:
            number(x * 2)
            number((x * 2).round() * 0.3 + x)  # (a loss that is logged)
        assert not region.report().lost
