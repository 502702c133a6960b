"""Elements that move, in every engine."""

from __future__ import annotations

import pytest
import torch

import sll
from oracles import grads, leaf

LISTED = {
    "permute": lambda y: y.permute([1, 0]) * 2,
    "flip": lambda y: y.flip([0]) * 2,
    "roll": lambda y: torch.roll(y, [1], [0]) * 2,
    "cast": lambda y: y.permute([1, 0]).double() * 2,
    "channels last": lambda y: y[None, None].contiguous(memory_format=torch.channels_last) * 2,
}


@pytest.mark.parametrize("forward", ["linear", "hard", "straight-through"])
@pytest.mark.parametrize("name", LISTED)
def test_a_choice_moved_by_what_is_given_as_a_list(name, forward):
    """It did not recognise itself, and the recursion had no end: einops and vector-quantize-pytorch pass lists."""
    table = torch.arange(12.0).reshape(6, 2)
    x = torch.linspace(-1, 1, 18).reshape(3, 6).requires_grad_()
    with sll.linearize(1.0, forward=forward):
        got = LISTED[name](table[x.argmax(-1)])
        want = table[x.argmax(-1)] * 2
    assert got.sum().item() == pytest.approx(want.sum().item())
    assert grads(got, x)[0] == pytest.approx(grads(want, x)[0])


TIED = {
    "index": lambda x: torch.floor(x)[0].long(),
    "reshape": lambda x: torch.floor(x).reshape(1, 1).long(),
    "arithmetic": lambda x: (torch.floor(x)[0] * 3).long(),
    "lookup": lambda x: torch.arange(20.0)[(torch.floor(x) * 3)[0].long()],
    "comparison": lambda x: (torch.floor(x).view(1, 1) > 2.5).float(),
    "remainder": lambda x: ((x + 1) % 4)[0] < 0.5,
    "flip": lambda x: torch.where(torch.ceil(x).flip(0) > 3.5, 1.0, 2.0),
    "sign": lambda x: torch.sign(x - 3).unsqueeze(0).long(),
    "residual": lambda x: torch.remainder(
        torch.arange(4), torch.div(256, (x + 1) % 4 + 1, rounding_mode="floor")[:, None]
    ),
}


@pytest.mark.parametrize("forward", ["linear", "hard", "straight-through"])
@pytest.mark.parametrize("name", TIED)
def test_a_tie_that_was_moved_shows_its_hard_side(name, forward):
    """In "linear" it showed the other one."""
    x = leaf(3.0)
    with sll.linearize(0.01, forward=forward):
        got = TIED[name](x)
    assert torch.equal(got, TIED[name](x))


@pytest.mark.parametrize("forward", ["linear", "hard", "straight-through"])
@pytest.mark.parametrize("fill", [float("-inf"), 1e30, 0.0])
def test_sorted_values_that_are_padded(forward, fill):
    """Their places were padded with that number, too: kornia's morphology pads what a maximum found."""
    x = leaf(1.0, 3.0, 2.0)
    with sll.linearize(0.1, forward=forward):
        y = torch.nn.functional.pad(x.max(dim=0, keepdim=True).values, (1, 1), value=fill)
        m = x >= y[1]
    assert y.tolist() == [pytest.approx(fill), 3.0, pytest.approx(fill)] and m.tolist() == [False, True, False]
    assert grads(y[1], x) == [0.0, 1.0, 0.0]


IN_PLACE = {"unsqueeze_": (0,), "squeeze_": (), "t_": (), "transpose_": (0, 1), "swapaxes_": (0, 1)}


@pytest.mark.parametrize("forward", ["linear", "hard", "straight-through"])
@pytest.mark.parametrize("kind", ["mask", "integers"])
@pytest.mark.parametrize("name", IN_PLACE)
def test_a_move_in_place_is_the_move(name, kind, forward):
    weight = torch.arange(1.0, 4.0)
    x = torch.tensor([[0.03, 1.0, -0.02]], dtype=torch.float64, requires_grad=True)
    found = []
    with sll.linearize(0.1, forward=forward):
        for written in (False, True):
            y = x > 0 if kind == "mask" else torch.round(4 * x + 0.5).long()
            other = getattr(y, name if written else name[:-1])(*IN_PLACE[name])
            assert (other is y) == written
            found.append((y if written else other).double().reshape(-1) @ weight.double())
    want = [5.0, 0.0, 15.0] if kind == "mask" else [0.0, 40.0, 60.0]
    assert found[0].item() == found[1].item()
    assert all(grads(y, x)[0] == pytest.approx(want) for y in found)


@pytest.mark.parametrize("forward", ["linear", "hard", "straight-through"])
@pytest.mark.parametrize("make", [torch.atleast_1d, torch.atleast_2d, torch.atleast_3d])
def test_dimensions_of_one_tensor_and_of_several(make, forward):
    x = leaf(0.03, 1.0)
    with sll.linearize(0.1, forward=forward):
        one, several = make(x > 0), make([x[0] > 0, x[1] > 0])
        y = one.float().sum() + 3 * several[0].float().sum() + several[1].float().sum()
    assert one.shape == make(x).shape and several[0].shape == make(x[0]).shape
    assert grads(y, x) == [pytest.approx(20.0), 0.0]
