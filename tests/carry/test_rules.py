"""A function has its rule in all its spellings: values, strides and types of the plain program, nothing lost."""

from __future__ import annotations

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
