"""A source that is refused leaves nothing behind: the next region decides as before."""

from __future__ import annotations

import pytest
import torch
from torch import library

import sll
from sll._carry.outcomes.boundaries import boundary_at
from sll._carry.outcomes.elementwise import elementwise
from sll._carry.outcomes.registry import RULES, register
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


def test_a_source_of_the_users_twice(rules_as_they_were):
    name = "::".join(("sll_test", "twice"))
    op = library.custom_op(name, lambda x: x.sign(), mutates_args=(), schema="(Tensor x) -> Tensor")
    overload = torch.ops.sll_test.twice.default
    source("twice", overload, boundaries="0")(half_steps)
    before = state()
    for again in ("twice", "two times"):
        with pytest.raises(ValueError, match="already"):
            source(again, overload, boundaries="0")(lambda eps, x: None)
    assert state() == before
    assert op(torch.ones(1)) == 1


def test_a_rule_for_several_functions_of_which_one_has_a_rule(rules_as_they_were):
    before = state()
    with pytest.raises(ValueError, match="exp has a rule already"):
        register(elementwise, "i1e", "exp")
    assert state() == before
