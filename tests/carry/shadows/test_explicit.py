"""``forward="straight-through"`` is the program in which each op is its explicit function with hard values: where
there are floats only, the same gradients, bit for bit.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

import programs
import sll

EXPLICIT = {"sign", "round", "floor", "ceil", "trunc", "heaviside", "gt", "ge", "lt", "le"}
ALIASES = {"greater": "gt", "greater_equal": "ge", "less": "lt", "less_equal": "le", "sgn": "sign", "fix": "trunc"}


class Explicit(TorchFunctionMode):
    """Every discrete op of a float replaced by its explicit function. A comparison waits for its cast to float; any
    other use of the mask is an error.
    """

    def __init__(self, eps):
        super().__init__()
        self.eps = eps
        self.masks = {}
        self.replaced = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        inplace = name.endswith("_") and not name.endswith("__")
        name = ALIASES.get(name.strip("_"), name.strip("_"))
        mask = self.masks.get(id(args[0])) if args and isinstance(args[0], Tensor) else None
        if mask is not None and name in ("to", "float", "double", "half", "type_as"):
            return mask[1](func(*args, **kwargs).dtype)
        assert not any(id(x) in self.masks for x in args), name
        if name not in EXPLICIT or not isinstance(args[0], Tensor) or not args[0].is_floating_point():
            return func(*args, **kwargs)
        found = self.explicit(name, *args, **kwargs)
        self.replaced += 1
        return args[0].copy_(found) if inplace else found

    def explicit(self, name, x, t=None, **kwargs):
        options = {"eps": self.eps, "forward": "hard"}
        if name == "heaviside":
            return sll.heaviside(x, **options)
        if name not in ("gt", "ge", "lt", "le"):
            return getattr(sll, name)(x, **options, **kwargs)
        if name in ("gt", "le"):
            up = lambda: sll.threshold(x, t, **options)
        else:
            up = lambda: sll.threshold(-x, -t, **options)
        value = up() if name in ("gt", "lt") else 1 - up()
        hard = getattr(torch, name)(x.detach(), t.detach() if isinstance(t, Tensor) else t)
        self.masks[id(hard)] = (hard, lambda dtype: value.to(dtype))
        return hard


def both(f, operands, eps):
    results = []
    for region in (sll.linearize(eps, forward="straight-through"), Explicit(eps)):
        leaves = [x.clone().requires_grad_() for x in operands]
        with region:
            y = f(*leaves)
        up = (0.5 + torch.arange(y.numel()).reshape(y.shape).remainder(9) / 8).to(y.dtype)
        results.append((y, torch.autograd.grad(y, leaves, up, allow_unused=True)))
    assert region.replaced
    (y, found), (value, wanted) = results
    assert torch.equal(y, value)
    for x, a, b in zip(operands, found, wanted):
        a, b = (torch.zeros_like(x) if g is None else g for g in (a, b))
        assert torch.equal(a, b), (a - b)[a != b][:4]
    return wanted


ONE = (
    "sign sign_method sgn round round_decimals floor ceil trunc fix heaviside gt ge lt le reflected_gt greater_equal "
    "headline nested_threshold nested_twice sign_then_compare round_exp relu_of_sign abs_sign sign_of_product "
    "round_of_ceil ternary round_negative_decimals trunc_of_floor in_place_chain"
).split()


@pytest.mark.parametrize("eps", [0.05, 0.5, sll.Auto(steps=0)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ONE)
def test_programs(name, dtype, eps):
    x = (torch.linspace(-2.4, 2.4, 41, dtype=torch.float64) * 1.013 + 0.0031).to(dtype)
    both(programs.PROGRAMS[name], [x], eps)


def spiking(v, w, reset):
    state, total = torch.zeros_like(v), 0.0
    for _ in range(5):
        state = 0.9 * state + v @ w
        spike = (state > 1).to(v.dtype)
        state = state * (1 - spike) if reset == "multiply" else state - (spike.detach() if reset == "cut" else spike)
        total = total + spike
    return total


FLOATS = {
    "means": lambda x, y: torch.sign((x > 0).to(x.dtype).mean(1) - 0.5) * torch.round(torch.sign(y).sum(1) * 0.4),
    "matrices": lambda x, y: torch.round(torch.round(x * 3) / 3 @ y * 2) / 2,
    "signs": lambda x, y: torch.sign(torch.sign(torch.sign(x) @ y) @ y.t() + 0.1),
    "learned threshold": lambda x, y: (x > y.mean()).to(x.dtype) * x + (y[0] >= x).to(x.dtype),
    "learned scale": lambda x, y: torch.round(x / (y.abs() + 0.2)).clamp(-3, 3) * (y.abs() + 0.2),
    "lerp": lambda x, y: torch.lerp(x, y, (x < y).to(x.dtype)),
    "reset": lambda x, y: spiking(x, y, "multiply"),
    "subtracted": lambda x, y: spiking(x, y, "subtract"),
    "reset is cut": lambda x, y: spiking(x, y, "cut"),
    "softmax": lambda x, y: torch.softmax(torch.round(x * 2), 1) @ torch.floor(y * 3),
    "views": lambda x, y: torch.ceil(torch.stack([x, torch.sign(y)]).permute(1, 0, 2).flatten(1)[:, ::2] * 1.7),
    "buffer": lambda x, y: torch.round(torch.zeros_like(x).copy_(torch.sign(x)).index_add(
        0, torch.tensor([1, 3]), torch.floor(y[:2] * 2)) * 0.6),
}  # fmt: skip


@pytest.mark.parametrize("eps", [0.3, sll.Auto(steps=0)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", FLOATS)
def test_programs_of_two(name, dtype, eps):
    generator = torch.Generator().manual_seed(3)
    operands = [torch.randn(4, 4, generator=generator, dtype=torch.float64).to(dtype) for _ in range(2)]
    found = both(FLOATS[name], operands, eps)
    assert any(g is not None and g.any() for g in found)
