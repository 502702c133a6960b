"""What is compared: ways to get a derivative for a discrete decision.

A method *rewrites* (it brings `Ops` for ``rewritten.py``), or it is a *region* around the plain program, or it
*searches* without derivatives. It has up to three configurations, one of which is used for all tasks.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from rewritten import HARD, Ops
from torch import Tensor

Config = Any
Enter = Callable[[], AbstractContextManager[Any]]
Objective = Callable[[Any], float]
Search = Callable[[Objective, Any, int, float, int], Any]
"""(objective, start, number of calls, first step, seed) -> best point"""

WIDTHS = (0.3, 0.1, 1.0)
"""Of whatever a method calls its width, temperature or softness, in the units of the decision. The first is preferred
where two do equally well."""


@dataclass(frozen=True)
class Method:
    name: str
    what: str
    """For the table: what has to be written."""
    configs: tuple[Config, ...] = (None,)
    ops: Callable[[Config, int], Ops] | None = None
    """Of a configuration and a seed."""
    region: Callable[[Config], Enter] | None = None
    """Called once per training, the result once per step."""
    search: Callable[[], Search] | None = None
    tasks: tuple[str, ...] | None = None
    """None: all."""
    rates: tuple[float, ...] | None = None
    """None: the learning rates of the task."""
    published: bool = False
    """Runs in a process of its own, in which ``import sll`` is the published package."""

    def applies(self, task: str) -> bool:
        return self.tasks is None or task in self.tasks


def straight(hard: Tensor, soft: Tensor) -> Tensor:
    """The value of one, the derivative of the other."""
    return soft + (hard - soft).detach()


# --- relaxations, which several methods share ---


def pairwise(x: Tensor) -> Tensor:
    return x.unsqueeze(-1) - x.unsqueeze(-2)


def soft_round(x: Tensor, temperature: float) -> Tensor:
    """Differentiable soft quantization (Gong et al. 2019): a tanh between two integers, scaled to meet the next."""
    low = x.detach().floor()
    k = 1 / (2 * temperature)
    return low + 0.5 + 0.5 * torch.tanh(k * (x - low - 0.5)) / math.tanh(k / 2)


def soft_topk(scores: Tensor, k: int, temperature: float) -> Tensor:
    """A sigmoid around the middle between the last that is chosen and the first that is not."""
    threshold = scores.topk(k + 1).values[-2:].mean()
    return torch.sigmoid((scores - threshold) / temperature)


def soft_rank(x: Tensor, temperature: float) -> Tensor:
    """How many are smaller, counted with sigmoids; oneself counts half."""
    return torch.sigmoid(pairwise(x) / temperature).sum(-1) + 0.5


# --- straight-through ---


def quantize_straight_through(z: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor]:
    """van den Oord, Vinyals & Kavukcuoglu 2017: copied gradient, codebook and commitment losses.

    Their ratio is the paper's 4 : 1. Their weight is that of four tried on the tuning seeds which trains best here.
    """
    words = codebook[torch.cdist(z, codebook).argmin(-1)]
    return straight(words, z), 0.25 * (F.mse_loss(words, z.detach()) + 0.25 * F.mse_loss(z, words.detach()))


def straight_through(config: Config, seed: int) -> Ops:
    """The derivative of the identity, whatever the value."""
    return Ops(
        heaviside=lambda x: straight(HARD.heaviside(x), x),
        sign=lambda x: straight(HARD.sign(x), x),
        round=lambda x: straight(HARD.round(x), x),
        argmax=lambda x: straight(HARD.argmax(x), x),
        topk=lambda x, k: straight(HARD.topk(x, k), x),
        rank=lambda x: straight(HARD.rank(x), x),
        quantize=quantize_straight_through,
    )


def clipped_straight_through(width: float, seed: int) -> Ops:
    """The derivative of a ramp of half that width, or of a softmax of that temperature."""

    def rank(x: Tensor) -> Tensor:
        return straight(HARD.rank(x), (0.5 * F.hardtanh(pairwise(x) / width)).sum(-1))

    return Ops(
        heaviside=lambda x: straight(HARD.heaviside(x), 0.5 * F.hardtanh(x / width)),
        sign=lambda x: straight(HARD.sign(x), F.hardtanh(x / width)),
        round=lambda x: straight(HARD.round(x), x),  # of clamped values: clipped already
        argmax=lambda x: straight(HARD.argmax(x), (x / width).softmax(-1)),
        topk=lambda x, k: straight(HARD.topk(x, k), k * (x / width).softmax(-1)),
        rank=rank,
    )


# --- soft forward ---


def sigmoid(temperature: float, seed: int) -> Ops:
    return Ops(
        heaviside=lambda x: torch.sigmoid(x / temperature),
        sign=lambda x: torch.tanh(x / (2 * temperature)),
        round=partial(soft_round, temperature=temperature),
        argmax=lambda x: (x / temperature).softmax(-1),
        topk=partial(soft_topk, temperature=temperature),
        rank=partial(soft_rank, temperature=temperature),
    )


def gumbel(width: float, seed: int) -> Ops:
    """Concrete distributions (Maddison et al. 2017) with logits ``x / width``, at their temperature 2/3."""
    generator = torch.Generator().manual_seed(seed)  # of its own: batches are the same for every method

    def uniform(x: Tensor) -> Tensor:
        return torch.rand(x.shape, generator=generator).clamp(1e-6, 1 - 1e-6)

    def logistic(x: Tensor) -> Tensor:
        return torch.logit(uniform(x))

    def gumbel_noise(x: Tensor) -> Tensor:
        return -(-uniform(x).log()).log()

    def binary(x: Tensor) -> Tensor:
        return torch.sigmoid((x / width + logistic(x)) * 1.5)

    def stochastic_round(x: Tensor) -> Tensor:
        """Up or down, relaxed (Louizos et al. 2019)."""
        low = x.detach().floor()
        return low + binary(x - low - 0.5)

    return Ops(
        heaviside=binary,
        sign=lambda x: 2 * binary(x) - 1,
        round=stochastic_round,
        argmax=lambda x: ((x / width + gumbel_noise(x)) * 1.5).softmax(-1),
        topk=lambda x, k: soft_topk(x / width + gumbel_noise(x), k, 2 / 3),
        rank=lambda x: soft_rank(x / width + gumbel_noise(x), 2 / 3),
    )


# --- libraries ---


def snntorch(alpha: float, seed: int) -> Ops:
    from snntorch import surrogate

    spike = surrogate.atan(alpha)
    return replace(HARD, heaviside=spike, sign=lambda x: 2 * spike(x) - 1)


def softtorch(softness: float, seed: int, suffix: str = "") -> Ops:
    import softtorch as st

    def call(name: str) -> Callable[..., Any]:
        return partial(getattr(st, name + suffix), softness=softness)

    return Ops(
        heaviside=call("heaviside"),
        sign=call("sign"),
        round=call("round"),
        argmax=partial(call("argmax"), dim=-1),
        topk=lambda x, k: call("topk")(x, k)[1].sum(0),  # its indices are rows of weights
        rank=partial(call("rank"), descending=False, dim=-1),
    )


def published(eps: float) -> Enter:
    import sll

    if sll.__version__ != "0.1.5":
        raise RuntimeError(f"expected the published sll 0.1.5, found {sll.__version__}")
    return lambda: sll.linearize(eps)


def linearize(eps: Any, **options: Any) -> Enter:
    import sll

    region = sll.linearize(eps, **options)
    return lambda: region


def plain(config: Config) -> Enter:
    return nullcontext


# --- without derivatives ---


def nelder_mead() -> Search:
    import numpy as np
    from scipy.optimize import minimize

    def search(objective: Objective, start: Any, calls: int, step: float, seed: int) -> Any:
        options = {"maxfev": calls, "initial_simplex": np.vstack([start, start + step * np.eye(len(start))])}
        return minimize(objective, start, method="Nelder-Mead", options=options).x

    return search


def cma_es() -> Search:
    import cma

    def search(objective: Objective, start: Any, calls: int, step: float, seed: int) -> Any:
        strategy = cma.CMAEvolutionStrategy(start, step, {"seed": seed + 1, "verbose": -9})
        best, value = start, math.inf
        while calls > 0:
            points = strategy.ask()
            values = [objective(point) for point in points[:calls]]
            calls -= len(values)
            if min(values) < value:
                value = min(values)
                best = points[values.index(value)]
            if len(values) == len(points):
                strategy.tell(points, values)
        return best

    return search


THRESHOLDS = (
    ("sign", "spiking", "f1", "controller", "deep", "stock", "grams", "threshold", "tree", "codes")
    + ("gates",)  # held back
)
STEPS = (0.03, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0)

PLAIN = "plain hard"
AUTO = "sll auto"

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method(PLAIN, "nothing", region=plain),
        Method("straight-through", "the program", ops=straight_through),
        Method("clipped straight-through", "the program", WIDTHS, ops=clipped_straight_through),
        Method("sigmoid", "the program", WIDTHS, ops=sigmoid),
        Method("gumbel", "the program", WIDTHS, ops=gumbel),
        Method("snntorch", "the program", (2.0, 1.0, 5.0), ops=snntorch, tasks=THRESHOLDS),
        Method("softtorch", "the program", (0.1, 0.3, 1.0), ops=softtorch),
        Method("softtorch straight-through", "the program", (0.1, 0.3, 1.0), ops=partial(softtorch, suffix="_st")),
        Method("published 0.1.5", "nothing", (1e-2, 1e-3, 1e-1), region=published, published=True),
        Method("sll fixed 1e-2", "nothing", region=lambda config: linearize(1e-2)),
        Method(AUTO, "nothing", region=lambda config: linearize("auto")),
        Method("Nelder-Mead", "an objective", search=nelder_mead, tasks=("controller",), rates=STEPS),
        Method("CMA-ES", "an objective", search=cma_es, tasks=("controller",), rates=STEPS),
    )
}


def find(name: str) -> Method:
    """A method of the table, or an experiment: ``sll(eps=0.3, forward="hard")``, any arguments of `sll.linearize`.

    A list is a list of configurations: ``sll(eps=[0.1, 0.3, 1.0])``.
    """
    if name in METHODS:
        return METHODS[name]
    try:
        call = ast.parse(name, mode="eval").body
    except SyntaxError:
        call = None
    if not isinstance(call, ast.Call) or getattr(call.func, "id", None) != "sll" or call.args:
        raise SystemExit(f"no method {name!r}: one of {', '.join(METHODS)}, or sll(eps=…, forward=…)")
    options = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
    eps = options.pop("eps")
    configs = tuple(eps) if isinstance(eps, list) else (None,)
    return Method(
        name, "nothing", configs, region=lambda config: linearize(eps if config is None else config, **options)
    )
