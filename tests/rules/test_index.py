"""A name that is refused leaves the table as it was."""

from __future__ import annotations

import pytest
import torch

import sll
from sll._carry.outcomes.sources import source


def slope_of_sign(forward):
    x = torch.zeros(1, requires_grad=True)
    with sll.linearize(0.25, forward=forward):
        torch.sign(x).backward()
    return x.grad.item()


@pytest.mark.parametrize("names", [("sign",), ("mine", "sign"), ("mine", "exp")])
def test_a_name_of_torch_that_has_a_row(names, rules_as_they_were):
    before = rules_as_they_were()
    with pytest.raises(ValueError, match="torch's (sign|exp) is known already"):
        source(*names, boundaries="0.5")(lambda eps, x: None)
    assert rules_as_they_were() == before
    assert [slope_of_sign(forward) for forward in ("straight-through", "hard", "linear")] == [4.0] * 3
