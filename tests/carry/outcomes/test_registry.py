"""Rules come with the in-place forms and ``out=``."""

from __future__ import annotations

import pytest
import torch

import sll
from oracles import grads, leaf
from sll._carry.outcomes.elementwise import elementwise
from sll._carry.outcomes.registry import register


def test_cat_with_out_carries():
    x = leaf(0.001, 1.0)
    with sll.linearize(0.01):
        both = torch.cat([x > 0, x > 5], out=torch.empty(4, dtype=torch.bool))
        y = both.float()
    assert grads(y, x) == [50, 0]


def test_a_rule_for_several_functions_of_which_one_has_a_rule(rules_as_they_were):
    before = rules_as_they_were()
    with pytest.raises(ValueError, match="exp has a rule already"):
        register(elementwise, "i1e", "exp")
    assert rules_as_they_were() == before
