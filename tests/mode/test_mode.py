"""Each torch call of the program comes by: what is passed on at once, and what is not."""

from __future__ import annotations

import pytest
import torch

import sll


def test_inference_mode_is_plain_whatever_else_is_on():
    x = torch.tensor([0.01], requires_grad=True)
    with sll.linearize(0.1), torch.inference_mode(), torch.enable_grad():
        assert (x > 0).float().item() == 1.0


@pytest.mark.parametrize("value", [torch.tensor([1, -2]), torch.tensor([True, False]), torch.tensor([1 + 2j])])
def test_integers_bools_and_complex_pass_through(value):
    with sll.linearize(1.0):
        assert torch.equal(
            torch.sgn(value) if value.is_complex() else torch.bitwise_not(value),
            (torch.sgn(value) if value.is_complex() else ~value),
        )
        y = value.clone().requires_grad_() if value.is_complex() else value
        assert not hasattr(torch.sgn(y) if value.is_complex() else y + 1, "_sll")


def test_other_modes_keep_working():
    with torch.device("meta"), sll.linearize(0.5):
        assert torch.zeros(3).device.type == "meta"
    with sll.linearize(0.5), torch.device("meta"):
        assert torch.zeros(3).device.type == "meta"
        assert (torch.zeros(3, requires_grad=True) > 0).device.type == "meta"


def test_carriers_go_stale_when_written_behind_the_region():
    x = torch.tensor([0.1, 0.2], requires_grad=True)
    with sll.linearize(0.5):
        m = x > 0
        m.fill_(False)
        assert not m.float().requires_grad
        n = x > 0
        n.zero_()
        assert n.float().tolist() == [0, 0]
