"""A name that is refused leaves the table as it was."""

from __future__ import annotations

import pytest
import torch

import sll
from sll._carry.outcomes.boundaries import boundary_at
from sll._carry.outcomes.registry import RULES
from sll._carry.outcomes.sources import STEPS, Step, source
from sll._rules.index import ROW_OF, SOURCES
from sll._rules.table import ROWS


def half_steps(eps, input):
    return Step(boundary_at(input, 0.5, eps), -7.0, 7.0)


def state():
    return dict(STEPS), dict(SOURCES), dict(ROW_OF), list(ROWS), dict(RULES)


def slope_of_sign(forward):
    x = torch.zeros(1, requires_grad=True)
    with sll.linearize(0.25, forward=forward):
        torch.sign(x).backward()
    return x.grad.item()


@pytest.mark.parametrize("names", [("sign",), ("mine", "sign"), ("mine", "exp")])
def test_a_name_of_torch_that_has_a_row(names, rules_as_they_were):
    before = state()
    with pytest.raises(ValueError, match="torch's (sign|exp) is known already"):
        source(*names, boundaries="0.5")(half_steps)
    assert state() == before
    assert [slope_of_sign(forward) for forward in ("straight-through", "hard", "linear")] == [4.0] * 3
