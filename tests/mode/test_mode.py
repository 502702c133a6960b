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


KINDS = [torch.is_floating_point, torch.is_complex, torch.Tensor.dim, lambda x: x.ndim, lambda x: x.is_mps]


@pytest.mark.parametrize("forward", ["straight-through", "hard", "linear"])
def test_what_kind_of_tensor_it_is(forward):
    x = torch.tensor([0.02, -0.4], requires_grad=True)
    with sll.linearize(0.1, forward=forward):
        m = x > 0
        assert torch.is_floating_point(input=x) and not torch.is_complex(input=m)
        assert torch.numel(input=m) == 2 and torch.is_nonzero(input=m[0]) and torch.is_nonzero(input=x[0].round() + 1)
        for ask in KINDS:
            assert ask(m) == ask(m.detach().clone()) and ask(x) == ask(x.detach())
        assert m.float().requires_grad


DATA = {
    "eq": lambda n: n == 1,
    "ne": lambda n: torch.ne(n, other=1),
    "long": lambda n: n.double().long(),
    "sort": lambda n: torch.sort(n, dim=0),
    "topk": lambda n: n.topk(k=2),
    "unique": lambda n: torch.unique(n, return_counts=True),
    "setitem": lambda n: n.clone().__setitem__(0, 7),
    "histogramdd": lambda n: torch.histogramdd(n.double().reshape(-1, 1), bins=[2]),
    "searchsorted": lambda n: torch.searchsorted(n.sort().values, n),
}


@pytest.mark.parametrize("forward", ["straight-through", "hard", "linear"])
@pytest.mark.parametrize("name", DATA)
def test_of_data_alone_no_rule_is_asked(name, forward):
    n = torch.tensor([3, 1, 2])
    with sll.linearize(0.1, forward=forward) as region:
        region.dispatch = lambda *_: pytest.fail("a rule was asked")
        DATA[name](n)


FOLLOWED = {
    "by name": lambda x: torch.ge(input=torch.zeros(3), other=x),
    "in a list": lambda x: torch.histogramdd(x.reshape(-1, 1), [torch.tensor([-1.0, 0.0, 1.0])])[0],
    "as weight": lambda x: torch.bincount(torch.tensor([0, 1, 1]), weights=(x > 0).long()),
}


@pytest.mark.parametrize("forward", ["straight-through", "hard", "linear"])
@pytest.mark.parametrize("name", FOLLOWED)
def test_what_autograd_follows_is_seen_wherever_it_is(name, forward):
    x = torch.tensor([0.02, -0.5, 0.6], requires_grad=True)
    with sll.linearize(0.1, forward=forward, on_lost="error"):
        y = FOLLOWED[name](x).double() * torch.arange(1.0, 4.0)[: 2 if name != "by name" else 3]
    assert torch.autograd.grad(y.sum(), x)[0][0] != 0
