"""Nothing is lost silently: a decision in its band that meets a function without a rule says so, once, at the user's
line.
"""

from __future__ import annotations

import linecache
import warnings

import pytest
import torch
from torch.func import grad, vmap
from torch.utils.checkpoint import checkpoint

import sll
from oracles import leaf

MODES = ("linear", "hard", "straight-through")

LOSSES = {
    "item": lambda m: m.sum().item(),
    "bool": lambda m: bool(m[:2].any()),
    "tolist": lambda m: m.tolist(),
    "numpy": lambda m: m.numpy(),
    "getitem": lambda m: torch.ones(3, 3)[m, m].sum(),
    "unique": lambda m: torch.unique(m),
    "argsort": lambda m: m.int().argsort(),
    "view": lambda m: m.view(torch.uint8),
    "setitem": lambda m: torch.ones(9, 9).__setitem__((m.long(), m.long()), 2.0),
    "int": lambda m: int(m.sum()),
    "float": lambda m: float(m.sum()),
    "index": lambda m: list(range(9))[m.sum()],
    "floor_divide": lambda m: m.sum() // 2,
    "scatter": lambda m: torch.zeros(3).scatter(0, m.long(), 1.0, reduce="add"),
    "argmax": lambda m: m.int().argmax(),
    "sort": lambda m: m.int().sort(),
    "searchsorted": lambda m: torch.searchsorted(m.int().cumsum(0), torch.ones(3, dtype=torch.int64)),
    "bucketize": lambda m: torch.bucketize(m.sum(), torch.tensor([1, 2])),
}


# The number of selected elements is open in the band, and sure outside it: there nothing is lost.
OPEN_COUNTS = {
    "shape": lambda m: torch.ones(3)[m].shape[0],
    "size": lambda m: torch.ones(3)[m].size(0),
    "len": lambda m: len(m.nonzero()),
    "numel": lambda m: torch.where(m)[0].numel(),
    "unbind": lambda m: torch.ones(3)[m].unbind(),
    "max": lambda m: torch.masked_select(torch.ones(3), m).max(),
    "mul": lambda m: torch.ones(3)[m] * torch.ones(int(m.detach().sum())),
}


CARRIED = {
    "linear": set(),
    "hard": {
        "getitem", "unique", "argsort", "view", "setitem", "floor_divide", "scatter", "argmax", "sort", "searchsorted",
        "bucketize", "max", "mul",
    },
    "straight-through": {"getitem", "setitem", "floor_divide", "bucketize"},
}  # fmt: skip
"""What a mode has a gradient for. Flips run any function again that returns tensors."""


def lost_in(names):
    """The names, with each mode in which they lose something."""
    return [(name, forward) for forward in MODES for name in names if name not in CARRIED[forward]]


def x_in_band():
    return torch.tensor([-1.0, 0.001, 1.0], requires_grad=True)


@pytest.mark.parametrize("name, forward", lost_in(LOSSES | OPEN_COUNTS))
def test_warns_once_at_the_line(name, forward):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with sll.linearize(0.01, forward=forward) as region:
            for _ in range(3):
                (LOSSES | OPEN_COUNTS)[name](x_in_band() > 0)
    lost = [w for w in seen if issubclass(w.category, sll.LostGradientWarning)]
    assert len(lost) == 1, [str(w.message) for w in seen]
    assert lost[0].filename == __file__
    source = linecache.getline(__file__, lost[0].lineno)
    assert source.strip().startswith(f'"{name}"')
    (site, count), *_ = region.report().lost.items()
    assert (site.file, site.line) == (__file__, lost[0].lineno) and count == 3
    assert not region.report().infinite_jumps


@pytest.mark.parametrize("forward", MODES)
@pytest.mark.parametrize("name", OPEN_COUNTS)
def test_a_sure_count_is_no_loss(name, forward):
    far = torch.tensor([-1.0, 0.5, 1.0], requires_grad=True)
    with sll.linearize(0.01, on_lost="error", forward=forward) as region:
        inside = OPEN_COUNTS[name](far > 0)
    assert not region.report().lost
    outside = OPEN_COUNTS[name](far > 0)
    assert torch.equal(torch.as_tensor(outside[0] if isinstance(outside, tuple) else outside),
                       torch.as_tensor(inside[0] if isinstance(inside, tuple) else inside))  # fmt: skip


@pytest.mark.parametrize("forward", MODES)
@pytest.mark.parametrize("name", sorted(CARRIED["hard"]))
def test_what_is_carried_is_not_lost(name, forward):
    """The same gradient as that of the difference which the open element makes."""
    if name not in CARRIED[forward]:
        pytest.skip("lost")
    if name == "setitem":
        program = lambda m: written(m, torch.zeros(2, 2))
    else:
        program = lambda m: numbers((LOSSES | OPEN_COUNTS)[name](m))
    x, m = x_in_band(), torch.tensor([False, True, True])
    other = torch.tensor([False, False, True])
    with sll.linearize(0.01, on_lost="error", forward=forward):
        y = program(x > 0)
    (g,) = torch.autograd.grad(y, x, allow_unused=True) if y.requires_grad else (torch.zeros(3),)
    change = float(program(m) - program(other))
    if name == "mul":  # the other factor is as long as it is, and what was selected broadcasts
        change = 0.0
    if forward == "straight-through":  # of a count half of what both neighbours make, of two indices each by itself
        place = (3000.0 - 30.0) + (3000.0 - 300.0)
        change = {"floor_divide": (3 // 2 - 1 // 2) / 2, "bucketize": (2 - 0) / 2, "setitem": place}.get(name, change)
    assert g.tolist() == pytest.approx([0.0, 50 * change, 0.0])


def written(m, target):
    target[m.long(), m.long()] = torch.tensor([2.0, 3.0, 4.0])
    return (target * torch.tensor([[1.0, 10.0], [100.0, 1000.0]])).sum()


def numbers(found):
    found = found if isinstance(found, tuple) else (found,)
    return sum(x.float().reshape(-1).cumsum(0).sum() for x in found)


@pytest.mark.parametrize("name, forward", lost_in(LOSSES))
def test_silent_where_there_is_nothing_to_lose(name, forward):
    """Outside the band there is no gradient: counted, no warning. Untracked input: not even counted. Same value as
    ever.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        far = torch.tensor([-1.0, 0.5, 1.0], requires_grad=True)
        with sll.linearize(0.01, forward=forward) as region:
            inside = LOSSES[name](far > 0)
        assert sum(region.report().lost.values()) >= 1
        outside = LOSSES[name](far > 0)
        if isinstance(inside, torch.Tensor):
            assert torch.equal(inside, outside)
        elif isinstance(inside, tuple):
            assert all(torch.equal(a, b) for a, b in zip(inside, outside))
        elif not hasattr(inside, "dtype"):
            assert inside == outside
        with sll.linearize(0.01, forward=forward) as region, torch.no_grad():
            LOSSES[name](x_in_band() > 0)
        with region:
            LOSSES[name](x_in_band().detach() > 0)
        assert not region.report().lost


@pytest.mark.parametrize("forward", MODES)
def test_on_lost(forward):
    region = sll.linearize(0.01, on_lost="error", forward=forward)
    with pytest.raises(sll.LostGradientError, match=r"test_lost.py:\d+: .*item"), region:
        (x_in_band() > 0).sum().item()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with sll.linearize(0.01, on_lost="ignore", forward=forward) as region:
            (x_in_band() > 0).sum().item()
        assert sum(region.report().lost.values()) == 1
    with pytest.warns(sll.LostGradientWarning, match='on_lost="ignore"'), sll.linearize(0.01, forward=forward):
        (x_in_band() > 0).sum().item()


QUIET = [
    lambda m: (
        m.shape,
        m.dtype,
        m.device,
        m.requires_grad,
        m.is_leaf,
        m.grad,
        m.ndim,
        len(m),
        m.size(0),
        m.stride(),
        m.numel(),
    ),
    lambda m: (repr(m), str(m), f"{m}"),
    lambda m: (
        m.detach(),
        torch.zeros_like(m),
        m.new_ones(3),
        torch.ones_like(m, dtype=torch.float),
        m.is_floating_point(),
    ),
    lambda m: (
        m.clone(),
        m.cpu(),
        m.contiguous(),
        m.T if m.dim() == 2 else m,
        m.is_contiguous(),
        m.element_size(),
        m.data_ptr(),
    ),
    lambda m: (list(m), m.unbind(), m[0], m[None, ..., :2], m[[0, 1]], m[torch.tensor([True, False, True])]),
    lambda m: [a & b for a, b in zip(m, m)],
    lambda m: (m.zero_(),),
]


@pytest.mark.parametrize("forward", MODES)
@pytest.mark.parametrize("ask", QUIET)
def test_asking_is_not_losing(ask, forward):
    with warnings.catch_warnings():
        warnings.simplefilter("error", sll.LostGradientWarning)
        with sll.linearize(0.01, on_lost="error", forward=forward) as region:
            ask(x_in_band() > 0)
        assert not region.report().lost


@pytest.mark.parametrize("forward", MODES)
def test_write_into_a_view_of_a_mask(forward):
    """The base carries what was written through the view."""
    x = x_in_band()
    with sll.linearize(0.01, on_lost="error", forward=forward):
        m = x > 0
        view = m[1:]
        view.logical_not_()
        y = m.float() @ torch.tensor([1.0, 10.0, 100.0])
    assert y.item() == pytest.approx(10 * 0.45 if forward == "linear" else 0.0)
    assert torch.autograd.grad(y, x)[0].tolist() == [0.0, -500.0, 0.0]


@pytest.mark.parametrize("forward", MODES)
def test_masks_counted_into_a_buffer(forward):
    x = x_in_band()
    with sll.linearize(0.01, on_lost="error", forward=forward):
        counts = torch.zeros(2, 3, dtype=torch.long)
        for row in range(2):
            counts[row] += x > 0
            counts[row] += x > 0.005
        shifted = counts.clone()
        shifted[1:] = shifted[:-1]
        shifted[0] = 7
        y, z = counts.float().sum(), shifted.float().sum()
    assert torch.autograd.grad(y, x, retain_graph=True)[0].tolist() == [0.0, 200.0, 0.0]
    assert torch.autograd.grad(z, x)[0].tolist() == [0.0, 100.0, 0.0]


def test_a_line_warns_once_whatever_number_of_regions_meets_it():
    x = torch.tensor([0.01, 1.0], requires_grad=True)
    namespace = {"sll": sll, "x": x}
    step = "with sll.linearize(0.1) as region:\n    (x > 0).sum().item()\nlost = len(region.report().lost)"
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("default")
        for _ in range(3):
            exec(compile(step, "loop.py", "exec"), namespace)
    assert [(each.filename, each.lineno) for each in said] == [("loop.py", 2)] and namespace["lost"] == 1


NEAR, FAR = [-1.3, -1.297, 0.001, 1.001, 2.4], [-1.4, -0.55, 0.55, 1.4, 2.4]

READ = {
    "gt": lambda x: (x > 0).sum().item(),
    "a cast": lambda x: x.long().tolist(),
    "a cast of what was rounded": lambda x: torch.round(x + 0.5).long().tolist(),
    "a sort": lambda x: x.argsort()[0].item(),
    "topk": lambda x: x.topk(4).indices[3].item(),
    "argmax": lambda x: (-x).argmax().item(),
    "a rank": lambda x: x.argsort().argsort()[0].item(),
    "kthvalue": lambda x: x.kthvalue(1).indices.item(),
    "unique": lambda x: x.unique(return_inverse=True)[1].tolist(),
    "bucketize": lambda x: torch.bucketize(x, torch.tensor([0.0, 1.0])).sum().item(),
    "floor_divide": lambda x: (x // 1).long().tolist(),
    "a clamp of integers": lambda x: (x > 0).long().clamp(-3, 5).sum().item(),
    "a comparison of a count": lambda x: ((x > 0).sum() > 2).item(),
}


@pytest.mark.parametrize("forward", MODES)
@pytest.mark.parametrize("name", READ)
def test_said_if_an_element_is_in_its_band(name, forward):
    """Also of large tensors, which take other ways; nobody's hooks are called, and no random number is drawn."""
    for size in (1, 4000):
        for values, lost in ((NEAR, 1), (FAR, 0)):
            if size > 1 and "gt" not in name:
                continue
            leaf = torch.tensor(values).repeat(size).requires_grad_()
            leaf.register_hook(lambda g: pytest.fail("not a gradient of the program"))
            x, state = leaf * 1, torch.get_rng_state()
            x.register_hook(lambda g: pytest.fail("not a gradient of the program"))
            with warnings.catch_warnings(record=True) as seen:
                warnings.simplefilter("always")
                with sll.linearize(0.01, forward=forward):
                    READ[name](x)
            assert len([w for w in seen if issubclass(w.category, sll.LostGradientWarning)]) == lost, values
            assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("forward", MODES)
@pytest.mark.parametrize("values, lost", [(NEAR, 1), (FAR, 0)], ids=["near", "far"])
def test_said_in_a_checkpoint(forward, values, lost):
    x = torch.tensor(values, requires_grad=True)
    body = lambda x: x * (x > 0).sum().item()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with sll.linearize(0.01, forward=forward):
            checkpoint(body, x, use_reentrant=False).sum().backward()
    assert len([w for w in seen if issubclass(w.category, sll.LostGradientWarning)]) == lost
    assert x.grad.tolist() == [3.0] * 5


@pytest.mark.parametrize("forward", ["linear", "straight-through"])
@pytest.mark.parametrize("values, lost", [(NEAR, 1), (FAR, 0)], ids=["near", "far"])
def test_said_in_transforms(forward, values, lost):
    bits = lambda v: (v > 0).view(torch.uint8).float().sum() + v.sum()
    x = torch.tensor([values, values])
    for run in (lambda: vmap(bits)(x.requires_grad_()), lambda: grad(bits)(x[0]), lambda: vmap(grad(bits))(x)):
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            with sll.linearize(0.01, forward=forward):
                run()
        assert len([w for w in seen if issubclass(w.category, sll.LostGradientWarning)]) == lost


def in_band():
    return leaf(0.001, 1.0) > 0


SILENT = {
    "pad_sequence": lambda m: torch.nn.utils.rnn.pad_sequence([m, m]),
    "fill": lambda m: torch.zeros(2, dtype=torch.bool).fill_(m[0]),
    "full_like": lambda m: torch.full_like(torch.zeros(2), m[0]),
    "contains": lambda m: True in m,
    "equal": lambda m: torch.equal(m, torch.tensor([True, True])),
    "count_index": lambda m: torch.arange(5.0)[m.sum()],
}


@pytest.mark.parametrize("name", SILENT)
def test_losses_that_were_silent(name):
    with pytest.warns(sll.LostGradientWarning), sll.linearize(0.01):
        SILENT[name](in_band())


def test_nothing_is_said_where_nothing_is_lost():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with sll.linearize(0.5):
            m = in_band()
            assert m.type() == "torch.BoolTensor" and torch.typename(m) == "torch.BoolTensor"
