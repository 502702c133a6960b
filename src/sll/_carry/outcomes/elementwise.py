"""Functions that work element by element: they run on both outcomes.

If an operand is discrete (bool or integer), the result joins its outcomes: ``below + w (above - below)``. If the
linearization rides on float operands only, this is ordinary arithmetic: the values are what they are, and the result
merely promises its outcomes to a later discrete op.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.compiler import is_compiling

from ..._ops.env import unwrapped
from ..._ops.kernels import Jump, blend, hard_forward, packed, select
from .counts import through_count
from .linearization import (
    DIVISIONS,
    MAY_BE_INFINITE,
    Chain,
    Choice,
    Constants,
    Decision,
    Expectation,
    Outcomes,
    as_they_are,
    attach,
    carrier,
    chain,
    collapse,
    constant,
    decided_at,
    decisions,
    discrete_carrier,
    exact_dtype,
    expect,
    few_decisions,
    in_one_pass,
    join,
    known_constant,
    original,
    probability,
    run_on_choices,
    run_on_outcomes,
    stands_for,
    step_of,
    step_of_mask,
)
from .registry import register, tracked

if TYPE_CHECKING:
    from ...region import linearize as Region


def cast(region: Region, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A mask that becomes a float is a step of what it was compared with: one pass, and no offset. So are the integers
    of a quantizer.
    """
    x = args[0]
    dtype = None if kwargs or region.trace is not None else _float_asked_for(func, args)
    step = None if dtype is None or x.is_floating_point() else step_of(x)
    if step is not None:
        step = step[0], step[1]._replace(at_nan=math.nan if torch.compiler.is_compiling() else _of_nan(x.dtype))
    elif dtype is not None:
        step = step_of_mask(x)
    # Integers in compiled code: NaN is what the compiler makes of it.
    known = torch.compiler.is_compiling() and step is not None and step[1].kind == "quantize"
    value = in_one_pass(x, step, region.mode, original(func, *args) if known else None)
    if value is None or step is None or dtype is None:
        return elementwise(region, func, args, kwargs)
    if torch.compiler.is_compiling() and not known and not region.linear:
        # The mask itself: compiled code does not see that an operand was written to between two decisions.
        value = hard_forward(packed(x).to(value.dtype), value)
    value = value.to(dtype)
    return attach(region, value, promised_step(*step, value))


def promised_step(decision: Decision, jump: Jump, like: Tensor, step: tuple[Decision, Jump] | None = None) -> Chain:
    """The promise of a step, a mask made a float or what a quantizer makes of integers, as numbers of `like`'s dtype:
    whatever is written to what it was computed from, and without holding on to it.
    """
    of = Constants(like)

    def compute() -> Outcomes:
        if jump.kind == "boundary":
            return Outcomes(decision, constant(jump.below, of), constant(jump.above, of))
        assert decision.site is not None
        n = decision.site.nearest()
        below, above = (value.clamp(jump.below, jump.above).to(of.dtype) for value in (n, n + 1))
        return Outcomes(decision, below, above)

    return Chain(compute, 1, step)


@functools.cache
def _of_nan(dtype: torch.dtype) -> float:
    """The integer that NaN becomes here."""
    return float(torch.full((64,), math.nan, device="cpu").to(dtype)[0])


def _clamped(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Decision, Jump] | None:
    """Which step rounded numbers are after they were clamped to whole numbers."""
    if func.__name__ not in _BOUNDS:
        return None
    given = dict(zip(_BOUNDS[func.__name__], args), **kwargs)
    x, low, high = given.pop("input", None), given.pop("min", None), given.pop("max", None)
    known = step_of(x)
    if known is None or given:
        return None
    for bound in (low, high):
        if bound is not None and (not isinstance(bound, (int, float)) or not float(bound).is_integer()):
            return None
    decision, jump = known
    before = (jump.below, jump.above) if jump.kind == "quantize" else (-math.inf, math.inf)
    low = before[0] if low is None else max(before[0], low)
    high = before[1] if high is None else min(before[1], high)
    if low > high:
        return None
    return decision, Jump("quantize", float(low), float(high), 0.0, math.nan)


_BOUNDS: dict[str, tuple[str, ...]] = dict.fromkeys(("clamp", "clip"), ("input", "min", "max"))
_BOUNDS |= {"clamp_min": ("input", "min"), "clamp_max": ("input", "max")}


def _float_asked_for(func: Callable[..., Any], args: tuple[Any, ...]) -> torch.dtype | None:
    """The dtype, if the call converts its operand to a float and does nothing else."""
    if len(args) == 1:
        return _FLOATS.get(func.__name__)
    to = args[1]
    if len(args) == 2 and isinstance(to, torch.dtype) and to.is_floating_point and func.__name__ in ("to", "type"):
        return to
    return None


_FLOATS = {"float": torch.float32, "double": torch.float64, "half": torch.float16, "bfloat16": torch.bfloat16}


def elementwise(region: Region, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if func.__name__ in _FOLDS and len(args) == 2:
        out = _folded(region, func, *args)
        if out is not None:
            return out
    operands = (*args, *kwargs.values())
    carried = [x for x in operands if carrier(x) is not None]
    if not carried:
        return func(*args, **kwargs)
    if not any(discrete_carrier(x) for x in carried):
        if not region.linear and _constant_choice(operands):
            return run_on_choices(region, func, args, kwargs)
        out = func(*args, **kwargs)
        if not isinstance(out, Tensor) or any(out is x for x in operands):
            return out
        if out.is_floating_point():
            return chain(region, func, args, kwargs, out, _clamped(func, args, kwargs))
    out = run_on_choices(region, func, args, kwargs)
    if out is None:
        out = run_on_outcomes(region, func, args, kwargs)
    if out is not None:
        return out
    args, kwargs = few_decisions(region, args, kwargs)
    if any(isinstance(carrier(x), Expectation) for x in (*args, *kwargs.values())):
        return through_count(region, func, args, kwargs)
    return func(*args, **kwargs)


def _folded(region: Region, func: Callable[..., Any], a: Any, b: Any) -> Tensor | None:
    """Logic of an outcome that is known everywhere: ``True & mask`` is the mask, ``False & mask`` False."""
    x, y = (known_constant(operand) for operand in (a, b))
    if x is None and y is None or not isinstance(a, Tensor) or not isinstance(b, Tensor):
        return None
    logic = _FOLDS[func.__name__]
    if x is not None and y is not None:
        return constant(logic(x, y), a if a.dim() >= b.dim() else b)
    mask, other, known = (b, a, x) if y is None else (a, b, y)
    if mask.dtype != torch.bool or mask.dim() < other.dim():
        return None
    if_false, if_true = logic(known, False), logic(known, True)
    if if_false == if_true:
        return constant(if_false, mask)
    if if_false:
        return region.call(torch.logical_not, mask)  # type: ignore[no-any-return]
    return attach(region, original(torch.clone, mask), carrier(mask))  # (the program may write to the mask itself)


_FOLDS = dict.fromkeys(("__and__", "bitwise_and", "logical_and", "__rand__"), operator.and_)
_FOLDS |= dict.fromkeys(("__or__", "bitwise_or", "logical_or", "__ror__"), operator.or_)
_FOLDS |= dict.fromkeys(("__xor__", "bitwise_xor", "logical_xor", "__rxor__"), operator.xor)


def _constant_choice(operands: tuple[Any, ...]) -> bool:
    """Whether the operands are choices among constants, and constants: a rank that was made a float, say.

    ``forward="hard"`` then takes the difference of the function between the values, not its tangent at the hard one:
    ``1 / rank`` falls by 1/2 from rank 1 to rank 2, whatever its slope at either.
    """
    chosen = 0
    for x in operands:
        found = carrier(x)
        if isinstance(found, Choice):
            if found.values.requires_grad:
                return False
            chosen += 1
        elif found is not None or tracked(x):
            return False
    return chosen > 0


ARITHMETIC = """
    add __add__ __radd__ sub subtract __sub__ __rsub__ rsub mul multiply __mul__ __rmul__ true_divide __truediv__
    __rtruediv__ __div__ __rdiv__ neg negative __neg__ positive __pos__ abs absolute __abs__ pow __pow__ __rpow__
    float_power square sqrt rsqrt reciprocal exp expm1 exp2 log log1p log2 log10 xlogy maximum minimum fmax fmin clamp
    clip clamp_min clamp_max sin cos tan asin acos atan atan2 arcsin arccos arctan arctan2 sinh cosh tanh asinh acosh
    atanh arcsinh arccosh arctanh sinc erf erfc erfinv lgamma digamma logit sigmoid expit hypot logaddexp logaddexp2
    lerp addcmul addcdiv nan_to_num deg2rad rad2deg ldexp i0 softplus relu relu6 hardtanh leaky_relu elu selu celu
    gelu silu mish hardswish hardsigmoid logsigmoid softsign tanhshrink softshrink gcd lcm log_ndtr ndtr entr xlog1py
"""
LOGIC = """
    logical_and logical_or logical_xor logical_not bitwise_and bitwise_or bitwise_xor bitwise_not __and__ __or__
    __xor__ __rand__ __ror__ __rxor__ __invert__ bitwise_left_shift bitwise_right_shift __lshift__ __rshift__
    __rlshift__ __rrshift__ eq ne not_equal __eq__ __ne__ isnan isinf isfinite isposinf isneginf isreal
"""
CASTS = "bool cpu cuda as_tensor asarray"  # clone and contiguous are in `shape.py`, casts to integers in `sources.py`

POLES = """
    reciprocal __rdiv__ __rtruediv__ log log1p log2 log10 xlogy sqrt rsqrt pow __pow__ __rpow__ float_power asin acos
    acosh atanh arcsin arccos arccosh arctanh erfinv lgamma digamma logit ndtri log_ndtr xlog1py tan
"""
MAY_BE_INFINITE.update(POLES.split())
DIVISIONS.update("div divide true_divide __truediv__ __div__ floor_divide __floordiv__ remainder __mod__ fmod".split())

register(elementwise, *ARITHMETIC.split(), *LOGIC.split(), *CASTS.split())
register(cast, *_FLOATS, in_place=False)


def where(region: Region, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``torch.where(condition, a, b)``, ``a.where(condition, b)``; with the condition alone it is `nonzero`, which is
    lost.
    """
    named = dict(
        zip(("self", "condition", "other") if func is torch.Tensor.where else ("condition", "self", "other"), args)
    )
    named.update(("self" if name == "input" else name, x) for name, x in kwargs.items())
    condition, above, below = named["condition"], named.get("self"), named.get("other")
    floats = any(isinstance(x, float) or isinstance(x, Tensor) and x.is_floating_point() for x in (above, below))
    if floats and isinstance(carrier(condition), Choice) and carrier(above) is None and carrier(below) is None:
        condition = collapse(region, condition)  # only how likely it is True matters
    if above is None:
        return region.call(torch.nonzero, condition, as_tuple=True)
    left = _left_alone(region, condition, above, below)
    if left is not None:
        return left
    out = _choose(region, torch.where, (condition, above, below), condition, above, below)
    if out is not None:
        return out
    found = carrier(condition)
    simple = isinstance(found, Outcomes) and found.polarity and carrier(above) is None and carrier(below) is None
    if not simple:
        return elementwise(region, torch.where, (condition, above, below), {})
    assert isinstance(found, Outcomes)
    hard = original(torch.where, condition, above, below)
    low, high = (below, above)[:: found.polarity]
    tree = Outcomes(found.decision, _as_outcome(low, hard), _as_outcome(high, hard))
    return join(region, torch.where, (condition, above, below), hard, tree, taken=_is_above(condition, found))


def _left_alone(region: Region, condition: Any, above: Any, below: Any) -> Tensor | None:
    """What is chosen everywhere, where the condition is an outcome that is known. A copy (autograd may keep it, and the
    program may write to the tensor) that stands for it: the same question about either is the same decision.
    """
    known = known_constant(condition)
    if known is None:
        return None
    taken, other = (above, below) if known else (below, above)
    if not isinstance(taken, Tensor) or taken.dim() < condition.dim():
        return None
    if isinstance(other, Tensor):
        same = other.dtype == taken.dtype and other.shape == taken.shape
    elif isinstance(other, bool):
        same = True
    else:
        same = taken.is_floating_point() or isinstance(other, int) and taken.dtype != torch.bool
    if not same or isinstance(other, complex):
        return None
    return attach(region, stands_for(taken.clone(), taken), carrier(taken))


def _is_above(mask: Tensor, found: Outcomes) -> Tensor:
    """Where the program is above, which at a tie of three values (sign) the mask alone knows."""
    return mask if found.polarity > 0 else mask.logical_not()


def _choose(
    region: Region, func: Callable[..., Any], args: tuple[Any, ...], mask: Any, above: Any, below: Any
) -> Tensor | None:
    """``where(mask, above, below)`` of floats that carry nothing: of a mask only how likely it is True matters, however
    many decisions that depends on. None for other operands, and for one decision where it takes more than one pass.
    """
    found = carrier(mask)
    if not isinstance(found, Outcomes) or mask.dtype != torch.bool:
        return None
    if carrier(above) is not None or carrier(below) is not None:
        return None
    if found.polarity:
        taken = _is_above(mask, found)
        low, high = (below, above) if found.polarity > 0 else (above, below)
        out = select(found.decision.offset(), taken, low, high, region.mode)
        return None if out is None else attach(region, out, _between(region, found.decision, low, high, out))
    if not _of_outcomes(found):
        return None
    out = _chosen_by_probability(region, func, args, mask, above, below)
    return None if out is None else chain(region, func, args, {}, out)


def _between(region: Region, decision: Decision, low: Any, high: Any, out: Tensor) -> Chain:
    """The promise of two outcomes that are known."""
    like, kept = Constants(out), as_they_are(region, "where", (low, high))

    def compute() -> Outcomes | None:
        sides = kept()
        return None if sides is None else Outcomes(decision, _as_outcome(sides[0], like), _as_outcome(sides[1], like))

    return Chain(compute, 1)


def _chosen_by_probability(
    region: Region, func: Callable[..., Any], args: tuple[Any, ...], mask: Tensor, above: Any, below: Any
) -> Tensor | None:
    straight = region.mode == "straight-through"
    offset = (expect(mask, "straight-through") if straight else probability(mask)) - 0.5
    shown = _where_ties_are_hard(mask) if region.linear else None
    out = select(offset, mask, below, above, region.mode, shown=shown)
    if out is not None:
        return out
    hard = original(func, *args)
    if not hard.is_floating_point():
        return None
    low, high = _as_outcome(below, hard), _as_outcome(above, hard)
    region.count_infinite_jumps(func, (mask, above, below), Outcomes(decided_at(offset), low, high))
    out = blend(offset, low, high, hard, region.mode, mask if straight else None)
    if shown is not None:
        out = hard_forward(blend(shown, low, high, hard, region.mode), out)
    return out


def _where_ties_are_hard(mask: Tensor) -> Tensor | None:
    """The offset at which each decision that ties is on the side it takes; None if none does.

    That is what is shown. The gradient is the ramp's all the same.
    """
    if not torch.compiler.is_compiling():
        tied = functools.reduce(torch.logical_or, [decision.offset() == 0 for decision in decisions(mask)])
        if tied.device.type == "cpu" and not bool(unwrapped(tied).any()):
            return None
    return expect(mask).detach() - 0.5


def _of_outcomes(tree: Outcomes) -> bool:
    """Whether nothing but decisions is in the tree."""
    for side in (tree.below, tree.above):
        found = carrier(side)
        if found is not None and not (isinstance(found, Outcomes) and _of_outcomes(found)):
            return False
    return True


def _as_outcome(x: Any, like: Tensor | Constants) -> Tensor:
    """In as many dimensions as the result has. (An alias, which `set_` leaves alone.)"""
    outcome = torch.as_tensor(x, dtype=like.dtype, device=like.device)
    more = like.dim() - outcome.dim()
    if more or outcome is not x:
        return outcome.reshape((1,) * more + tuple(outcome.shape))
    apart = not is_compiling() and torch._C._are_functorch_transforms_active()  # which sees no writes
    return stands_for(outcome.clone() if apart else outcome.view_as(outcome), outcome)


def masked_fill(region: Region, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    named = dict(zip(("input", "mask", "value"), args), **kwargs)
    x, mask, value = named["input"], named["mask"], named["value"]
    if carrier(x) is None and x.is_floating_point():
        mask = collapse(region, mask)
        plain = not isinstance(value, Tensor) or value.dim() == 0  # torch refuses others
        out = _choose(region, func, (x, mask, value), mask, value, x) if plain else None
        if out is not None:
            return out
    found = carrier(mask)
    if not (isinstance(found, Outcomes) and found.polarity and carrier(x) is None and carrier(value) is None):
        return elementwise(region, func, (x, mask, value), {})
    hard = original(func, x, mask, value)
    low, high = (x, value)[:: found.polarity]
    tree = Outcomes(found.decision, _as_outcome(low, hard), _as_outcome(high, hard))
    return join(region, func, (x, mask, value), hard, tree, taken=_is_above(mask, found))


def masked_scatter(region: Region, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Element ``i`` of the source goes to the ``i``-th True element of the mask.

    The position is a count of decisions, so it is a lookup in the source at the expected position, interpolated between
    neighbours: a mask element that flips shifts everything behind it.
    """
    named = dict(zip(("input", "mask", "source"), args), **kwargs)
    x, mask, source = named["input"], named["mask"], named["source"]
    if carrier(mask) is None:
        return func(*args, **kwargs)
    if source.numel() == 0:
        region.lose("masked_scatter", [mask], "the source has no element for it. Use torch.where(mask, a, b).")
        return func(*args, **kwargs)
    hard = original(func, x, mask, source)
    if not hard.is_floating_point():
        region.lose(
            "masked_scatter",
            [mask],
            "only a float source has a derivative here. Scatter floats, and convert afterwards.",
        )
        return hard
    flat = source.reshape(-1)
    last = flat.numel() - 1
    flags = mask.expand(hard.shape).reshape(-1)
    share = expect(mask).expand(hard.shape).reshape(-1)
    position = (share.cumsum(0, dtype=exact_dtype(mask)) - share).clamp(0, last)
    first = position.detach().floor()
    near, far = flat[first.long()], flat[(first + 1).clamp(max=last).long()]
    shown = flat[(flags.cumsum(0) - flags.long()).clamp(0, last)]
    taken = blend((position - first - 0.5).to(share.dtype), near, far, shown, region.mode)
    return region.call(torch.where, mask, taken.reshape(hard.shape), x)


register(where, "where", in_place=False)
register(masked_fill, "masked_fill")
register(masked_scatter, "masked_scatter")
