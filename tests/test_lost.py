"""Nothing is lost silently: a decision in its band that meets a function without a rule says so, once, at the user's
line.
"""

from __future__ import annotations

import linecache
import warnings

import pytest
import torch

import sll

LOSSES = {
    "item": lambda m: m.sum().item(),
    "bool": lambda m: bool(m[:2].any()),
    "tolist": lambda m: m.tolist(),
    "numpy": lambda m: m.numpy(),
    "getitem": lambda m: torch.ones(3, 3)[m, m],
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


def x_in_band():
    return torch.tensor([-1.0, 0.001, 1.0], requires_grad=True)


@pytest.mark.parametrize("name", LOSSES | OPEN_COUNTS)
def test_warns_once_at_the_line(name):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with sll.linearize(0.01) as region:
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


@pytest.mark.parametrize("name", OPEN_COUNTS)
def test_a_sure_count_is_no_loss(name):
    far = torch.tensor([-1.0, 0.5, 1.0], requires_grad=True)
    with sll.linearize(0.01, on_lost="error") as region:
        inside = OPEN_COUNTS[name](far > 0)
    assert not region.report().lost
    outside = OPEN_COUNTS[name](far > 0)
    assert torch.equal(torch.as_tensor(outside[0] if isinstance(outside, tuple) else outside),
                       torch.as_tensor(inside[0] if isinstance(inside, tuple) else inside))  # fmt: skip


@pytest.mark.parametrize("name", LOSSES)
def test_silent_where_there_is_nothing_to_lose(name):
    """Outside the band there is no gradient: counted, no warning. Untracked input: not even counted. Same value as
    ever.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        far = torch.tensor([-1.0, 0.5, 1.0], requires_grad=True)
        with sll.linearize(0.01) as region:
            inside = LOSSES[name](far > 0)
        assert sum(region.report().lost.values()) >= 1
        outside = LOSSES[name](far > 0)
        if isinstance(inside, torch.Tensor):
            assert torch.equal(inside, outside)
        elif isinstance(inside, tuple):
            assert all(torch.equal(a, b) for a, b in zip(inside, outside))
        elif not hasattr(inside, "dtype"):
            assert inside == outside
        with sll.linearize(0.01) as region, torch.no_grad():
            LOSSES[name](x_in_band() > 0)
        with region:
            LOSSES[name](x_in_band().detach() > 0)
        assert not region.report().lost


def test_on_lost():
    with pytest.raises(sll.LostGradientError, match=r"test_lost.py:\d+: .*item"), sll.linearize(0.01, on_lost="error"):
        (x_in_band() > 0).sum().item()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with sll.linearize(0.01, on_lost="ignore") as region:
            (x_in_band() > 0).sum().item()
        assert sum(region.report().lost.values()) == 1
    with pytest.warns(sll.LostGradientWarning, match='on_lost="ignore"'), sll.linearize(0.01):
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


@pytest.mark.parametrize("ask", QUIET)
def test_asking_is_not_losing(ask):
    with warnings.catch_warnings():
        warnings.simplefilter("error", sll.LostGradientWarning)
        with sll.linearize(0.01, on_lost="error") as region:
            ask(x_in_band() > 0)
        assert not region.report().lost


def test_write_into_a_view_of_a_mask():
    """The base carries what was written through the view."""
    x = x_in_band()
    with sll.linearize(0.01, on_lost="error"):
        m = x > 0
        view = m[1:]
        view.logical_not_()
        y = m.float() @ torch.tensor([1.0, 10.0, 100.0])
    assert y.item() == pytest.approx(10 * 0.45)
    assert torch.autograd.grad(y, x)[0].tolist() == [0.0, -500.0, 0.0]


def test_masks_counted_into_a_buffer():
    x = x_in_band()
    with sll.linearize(0.01, on_lost="error"):
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
