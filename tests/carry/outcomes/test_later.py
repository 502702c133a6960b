"""Operands as they were: what is worked out later sees no write in between; what is only read is not copied."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

import sll
from sll._carry.outcomes.carriers import carrier

pytestmark = pytest.mark.usefixtures("loops_everywhere")


def wanted(x):
    with sll.linearize(0.5):
        m = x > 0
        return torch.where(m, 3.0, -1.0), torch.autograd.grad(torch.where(m, 3.0, -1.0).sum(), x)[0]


WRITES = {
    "add_": lambda v: v.add_(1),
    "+=": lambda v: v.__iadd__(1),
    "v[0] =": lambda v: v.__setitem__(0, 5.0),
    "view": lambda v: v.view(-1)[2:].zero_(),
    "detach": lambda v: v.detach().mul_(3),
    "data": lambda v: v.data.mul_(3),
    "data =": lambda v: setattr(v, "data", torch.ones(9)),
    "no_grad": torch.no_grad()(lambda v: v.clamp_(min=0.1)),
    "out=": lambda v: torch.add(v.detach(), 1, out=v.detach()),
    "foreach": torch.no_grad()(lambda v: torch._foreach_add_([v], 1)),
    "inplace=True": lambda v: torch.nn.functional.relu(v, inplace=True),
    "inplace": lambda v: torch.nn.functional.hardtanh(v, 0.0, 0.1, True),
    "numpy": lambda v: np.add(v.detach().numpy(), 1, out=v.detach().numpy()),
    "sign_": lambda v: v.sign_(),
    "overload": torch.no_grad()(lambda v: torch.ops.aten.add_.Tensor(v.data, 5.0)),
    "packet": torch.no_grad()(lambda v: torch.ops.aten.add_(v.data, 5.0)),
    "embedding": lambda v: torch.nn.functional.embedding(torch.tensor([3]), v.data.view(-1, 1), max_norm=0.01),
    "batch_norm": lambda v: torch.nn.functional.batch_norm(
        torch.randn(4, 9), v.data, torch.ones(9), training=True, momentum=1.0
    ),
    "inference": torch.inference_mode()(lambda v: v.data.add_(5.0)),
    "init": lambda v: torch.nn.init.normal_(v.detach()),
}


@pytest.mark.parametrize("where", ["in the region", "in the block that is hard", "in a region inside"])
@pytest.mark.parametrize("name", WRITES)
def test_a_write_after_the_decision_changes_nothing(name, where):
    x = torch.linspace(-1, 1, 9).requires_grad_()
    value, gradient = wanted(x)
    inner = {"in the block that is hard": sll.hard(), "in a region inside": sll.linearize(0.1)}.get(where)
    with sll.linearize(0.5):
        v = x.clone()
        m = v > 0
        y = torch.floor(v)
        if inner is None:
            WRITES[name](v)
        else:
            with inner:
                WRITES[name](v)
        z = torch.where(m, 3.0, -1.0)
        again = y > -0.5
        w = again.float()
    torch.testing.assert_close(z, value)
    torch.testing.assert_close(torch.autograd.grad(z.sum(), x, retain_graph=True)[0], gradient)
    with sll.linearize(0.5):
        unwritten = (torch.floor(x) > -0.5).float()
    torch.testing.assert_close(torch.autograd.grad(w.sum(), x)[0], torch.autograd.grad(unwritten.sum(), x)[0])


READS = {
    "relu": torch.relu,
    "F.relu": torch.nn.functional.relu,
    "inplace=False": lambda v: torch.nn.functional.hardtanh(v, inplace=False),
    "dropout": lambda v: torch.nn.functional.dropout(v, 0.5, True),
    "out=None": lambda v: torch.add(v, 1, out=None),
    "normalize": lambda v: torch.nn.functional.normalize(v, dim=0),
    "method": lambda v: v.add(1),
    "operator": lambda v: v + 1,
    "overload": lambda v: torch.ops.aten.add.Tensor(v, 5.0),
    "packet": lambda v: torch.ops.aten.mul(v, v),
}
TWINS = {
    "F.relu": WRITES["inplace=True"],
    "inplace=False": WRITES["inplace"],
    "out=None": WRITES["out="],
    "overload": WRITES["overload"],
    "packet": WRITES["packet"],
}


def address(x):
    return torch._C._data_address(x)


@pytest.mark.parametrize("name", READS)
def test_what_is_only_read_is_not_copied(name):
    x = torch.linspace(-1, 1, 9).requires_grad_()
    with sll.linearize(0.5):
        v = x.clone()
        m = v > 0
        now = carrier(m).decision.site.operands[0]
        for _ in range(2):
            READS[name](v)
            assert address(v) == address(now)
        if name in TWINS:
            TWINS[name](v)
            assert address(v) != address(now)


@pytest.mark.parametrize("many", [64, 10_000])
def test_a_parameter_that_nobody_has_is_not_copied(many):
    """A mask costs no memory until somebody asks, and numbers are read without a copy."""
    w = torch.linspace(-1, 1, many).requires_grad_()
    with sll.linearize(0.5):
        m = w > 0
        y = m.float()
    now = carrier(m)
    assert now is None and y.requires_grad
    with sll.linearize(0.5):
        m = w > 0
        now = carrier(m).decision.site.operands[0]
        m.float()
        assert address(w) == address(now)


def test_memory_that_somebody_has_through_dlpack():
    """It is not cut off by a write in the region."""
    for made in (lambda: torch.zeros(10_000), lambda: torch.zeros(10_000, requires_grad=True)):
        w, p = made(), torch.zeros((), requires_grad=True)
        array = np.from_dlpack(w.detach())
        with sll.linearize(0.5):
            m = w > p
            with torch.no_grad():
                w.add_(1)
            y = m.float()
        assert array[0] == 1 and y[0] == 0 and torch.autograd.grad(y[0], p)[0] == -1


def test_a_tensor_that_somebody_has_through_dlpack_itself():
    """Not by way of another tensor of its memory: it is not cut off either, and reads nothing that is freed."""
    w, p = torch.zeros(10_000), torch.zeros((), requires_grad=True)
    array = np.from_dlpack(w)
    with sll.linearize(0.5):
        y = torch.where(p > -0.1, w, 1.0)
        w.add_(1)
    assert array[0] == 1 and y[0] < 1 and torch.autograd.grad(y[0], p)[0] == -1


@pytest.mark.parametrize("forward", ["linear", "hard", "straight-through"])
def test_memory_that_becomes_longer(forward):
    """It can be written to, and what was decided before stays."""
    t, p = torch.ones(10_000), torch.linspace(-1, 1, 10_000).requires_grad_()
    with sll.linearize(0.5, forward=forward):
        y = torch.where(p > -0.1, t, 0.0)
        i = (3 * p).long()
        z = (i + 1).float()
        t.resize_(30_000).fill_(7)
        i.resize_(30_000).fill_(7)
    assert t[-1] == i[-1] == 7 and y.detach().max() == 1 and z.detach().max() <= 4
    assert torch.autograd.grad(y.sum(), p)[0].sum() > 0


def test_memory_that_processes_share():
    w, p = torch.zeros(10_000).share_memory_().requires_grad_(), torch.zeros((), requires_grad=True)
    with sll.linearize(0.5):
        m = w > p
        w.data.add_(1)
        y = m.float()
    assert w.is_shared() and torch.autograd.grad(y[0], p)[0] == -1


def test_a_buffer_that_grows():
    buffer, p = torch.zeros(8), torch.zeros((), requires_grad=True)
    with sll.linearize(0.5):
        m = buffer > p
        with pytest.warns(UserWarning, match="resized"):
            torch.add(torch.ones(100), 1, out=buffer)
        y = m.float()
    assert y.shape == (8,) and torch.autograd.grad(y[0], p)[0] == -1


def test_writes_by_another_thread():
    x = torch.linspace(-1, 1, 8).requires_grad_()
    with sll.linearize(0.5):
        v = x * 1
        m = v > 0
        other = threading.Thread(target=lambda: v.detach().add_(5))
        other.start()
        other.join()
        y = m.float()
    assert 0 < y[3] < 0.5 and torch.autograd.grad(y.sum(), x)[0].sum() == 4


def test_a_mask_that_is_written_to_afterwards():
    x = torch.linspace(-1, 1, 5000).requires_grad_()
    with sll.linearize(0.1):
        m = x > 0
        y = torch.where(m, torch.ones(5000), torch.zeros(5000))
        m &= False
    assert torch.autograd.grad(y.sum(), x)[0].any()


def test_memory_that_numpy_writes_to():
    for first in (True, False):
        array = np.linspace(-1, 1, 8).astype(np.float32)
        seen, p = torch.from_numpy(array), torch.zeros((), requires_grad=True)
        if not first:
            seen = torch.linspace(-1, 1, 8)
            array = seen.numpy()
        with sll.linearize(0.5):
            m = seen > p
            array[:] = 100.0
            y = m.float()
        assert torch.autograd.grad(y.sum(), p)[0] == -4.0 and 0 < y[3] < 0.5


def test_writes_by_a_hook_of_backward():
    x = torch.linspace(-1, 1, 8).requires_grad_()

    def step(p):
        p.data.add_(5)

    x.register_post_accumulate_grad_hook(step)
    with sll.linearize(0.5):
        m = x > 0
        (x * 1).sum().backward()
        y = m.float()
    x.grad = None
    assert 0 < y[3] < 0.5
    y.sum().backward()
    assert x.grad.sum() == 4


def test_writes_while_a_generator_is_suspended():
    for write in (lambda x: x.add_(5), lambda x: x.data.add_(5)):
        x = torch.linspace(-1, 1, 8).requires_grad_()

        @sll.enable(eps=0.5)
        def steps(x=x):
            m = x > 0
            yield None
            yield m.float()

        run = steps()
        next(run)
        with torch.no_grad():
            write(x)
        y = next(run)
        assert 0 < y[3] < 0.5 and torch.autograd.grad(y.sum(), x)[0].sum() == 4


def test_dispatch_modes_that_look():
    from torch.utils.flop_counter import FlopCounterMode

    x = torch.linspace(-1, 1, 8).requires_grad_()
    with sll.linearize(0.5), FlopCounterMode(display=False):
        m = x > 0
        x.data.add_(5)
        y = m.float()
    assert 0 < y[3] < 0.5


@pytest.mark.parametrize("many", [1, 5000])
def test_what_was_chosen_from_is_written_to(many):
    x = torch.full((many,), 0.02).requires_grad_()
    with sll.linearize(0.1):
        v = x * 1
        u = torch.where(v > 0, 2 * v, v)
        expected = torch.autograd.grad(u.sum(), x, retain_graph=True)[0]
        v += 1
    assert (expected > 1).all() and torch.equal(torch.autograd.grad(u.sum(), x)[0], expected)


@torch.jit.script
def _tripled(x: torch.Tensor) -> torch.Tensor:
    return x.mul_(3.0)


def test_writes_by_torchscript():
    x = torch.tensor([-0.02], requires_grad=True)
    with sll.linearize(0.1):
        s = x * 1
        mask = s > 0
        _tripled(s.detach())
        y = mask.double()
    assert y.item() == pytest.approx(0.4) and torch.autograd.grad(y.sum(), x)[0] == 5
