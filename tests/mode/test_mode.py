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


@pytest.mark.parametrize("forward", ["straight-through", "hard", "linear"])
@pytest.mark.parametrize("grad", [True, False])
def test_torch_cond_and_loops_run_in_a_region(forward, grad):
    """torch compiles them on its own. What they branch on is followed, as with `torch.where`."""
    from torch._higher_order_ops.while_loop import while_loop

    def program(x):
        with torch.set_grad_enabled(grad):
            y = torch.cond(x.sum() > 0, lambda x: x.sin(), lambda x: x.cos(), (x,))
            _, z = while_loop(lambda i, z: i < 3, lambda i, z: (i + 1, 2 * z), (torch.tensor(0), x.detach()))
        return y.sum() + z.sum()

    x = torch.tensor([0.5, -0.4], requires_grad=True)
    with sll.linearize(0.2, forward=forward, on_lost="ignore") as region:
        y = program(x)
    assert not region.report().lost
    if forward != "linear":
        assert y == program(x)
    if grad and forward != "linear":
        (found,) = torch.autograd.grad(y, x)
        jump = (x.sin() - x.cos()).sum().item()
        torch.testing.assert_close(found, x.detach().cos() + jump / 0.4)


@pytest.mark.parametrize("forward", ["straight-through", "hard", "linear"])
def test_what_branches_of_torch_cond_decide_is_followed(forward):
    """They are compiled without the region, silently. A side that is not taken is not run far from the band."""

    def program(x, cond):
        y = cond(x[1] > 0, lambda x: torch.round(x).sum(), lambda x: torch.log(-x[1]) + torch.sign(x[0]), (x,))
        m = x > 0
        return y + cond(x[1].detach() > 0, lambda m: torch.where(m, 1.0, 3.0).sum(), lambda m: m.sum().float(), (m,))

    def plain(pred, yes, no, operands):
        return yes(*operands) if pred else no(*operands)

    found = []
    for cond in (torch.cond, plain):
        x = torch.tensor([0.01, 1.51, -0.3], requires_grad=True)
        with sll.linearize(0.02, forward=forward, on_lost="ignore") as region:
            y = program(x, cond)
        found.append((y.item(), torch.autograd.grad(y, x)[0].tolist()))
        assert all(site.file == __file__ for site in region.report().lost)
    assert found[0] == found[1] and found[0][1][0] != 0 and found[0][1][1] == 25
