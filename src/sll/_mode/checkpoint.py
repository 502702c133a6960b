"""Activation checkpointing in a region: what is computed again is computed in the same regions.

`torch.utils.checkpoint` runs a function once more during backward. It does not bring torch function modes back
(pytorch issue 147995), and it calls nothing that a mode sees. So the region looks for it: at the first call in a
checkpointed function that has a rule (or where that function enters a region of its own) it walks up the Python
stack, finds the call of `torch.utils.checkpoint`, and has the regions entered whenever the function runs again.

The second run has to save what the first one saved, tensor by tensor; torch checks that and raises `CheckpointError`.
So a tensor from outside brings back what it carried (`Again.carried`), and what is worked out late is saved as if it
had been worked out where it was made (`saved_as_then`).

The reentrant variant runs the function without gradients first, and then on copies of its arguments. Nothing that is
carried crosses that, in or out, and it cannot be seen whether something should have: a region refuses it.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

from torch.utils import checkpoint as torch_checkpoint
from torch.utils.weak import WeakIdKeyDictionary

from .._carry.interface import Carried, held
from .._ops.callsite import frames
from .._ops.env import HOOKS
from .._ops.saving import saving
from .threads import THREAD

_CHECKPOINT = inspect.unwrap(torch_checkpoint.checkpoint).__code__


_REENTRANT = torch_checkpoint.CheckpointFunction.forward.__code__


def hooked() -> bool:
    """A quick look: whether this may be inside a checkpoint. (Older torch does not tell.)"""
    return HOOKS is None or HOOKS(True) is not None


class Again:
    """A checkpointed function, which enters `regions` whenever it is run again."""

    def __init__(self, function: Callable[..., Any], regions: Sequence[Any], args: Sequence[Any]) -> None:
        self.function = function
        self.regions = tuple(regions)
        self.of_args = [held(x, Carried) for x in args]
        """What the arguments of the first run carried. Those of the second may be other objects."""
        self.carried: Any = WeakIdKeyDictionary()
        """Other tensors that the first run used, and what they carried."""
        policies: list[Any] = [policy for region in regions for policy in region.policies()]
        self.states = [(policy, policy.state_dict()) for policy in policies if hasattr(policy, "state_dict")]
        """Of policies that change with time, such as `Anneal`."""
        self.counts = [dict(region.counted()) for region in regions]
        self.replays = [run.replay() for run in THREAD.runs[-1:]]
        """Where a function may run again, what Python was told."""

    def __call__(self, *args: Any) -> Any:
        with ExitStack() as stack:
            for policy, then in self.states:
                stack.callback(policy.load_state_dict, policy.state_dict())
                policy.load_state_dict(then)
            stack.callback(setattr, THREAD, "runs", THREAD.runs)
            THREAD.runs = [replay() for replay in self.replays]
            for region, counts in zip(self.regions, self.counts):
                entered = stack.push(region.enter())
                entered.count_from(dict(counts))
            own = zip(args[len(args) - len(self.of_args) :], self.of_args)  # (torch 2.6 has one argument more)
            for x, found in (*own, *self.carried.items()):
                if found is not None and "_sll" not in x.__dict__:
                    x._sll = (found, x._version)
                    entered.adopt(x)
                    entered.select()  # (it may be what a mask has selected)
            return self.function(*args)


_AROUND: weakref.WeakKeyDictionary[Callable[[Any], Any], list[Again]] = weakref.WeakKeyDictionary()
"""The checkpoints that were found around what a hook saves."""


def note(regions: Callable[[], Sequence[Any]], operands: Iterable[Any]) -> None:
    """Let every checkpoint around this call enter ``regions()`` when it is run again (unless it was told before), with
    `operands` carrying what they carry now.
    """
    top = saving()
    around = _AROUND.get(top[0]) if top is not None else None
    if around is None:
        around = []
        for frame, args in _running():
            if not isinstance(frame.recompute_fn, Again):
                frame.recompute_fn = Again(frame.recompute_fn, regions(), args)
            around.append(frame.recompute_fn)
        if top is not None and top[0].__qualname__.startswith("_checkpoint_hook."):  # others may be entered again
            _AROUND[top[0]] = around
    if around:
        for x in operands:
            found = held(x, Carried)
            if found is not None:
                for again in around:
                    again.carried[x] = found


def _running() -> Iterator[tuple[Any, Sequence[Any]]]:
    """What torch keeps of the checkpoints around this call, innermost first, and the arguments of their functions."""
    for at in frames():
        if at.f_code is _CHECKPOINT:
            generator = at.f_locals.get("gen")
            running = None if generator is None else generator.gi_frame
            if running is not None and "new_frame" in running.f_locals:
                yield running.f_locals["new_frame"], at.f_locals["args"]


def in_reentrant() -> bool:
    """Whether this is the first run of a function in the reentrant variant."""
    return any(at.f_code is _REENTRANT for at in frames())


def around_compilation() -> bool:
    """Asked while compiling: whether it is a checkpointed function that is compiled. (Its second run would have no
    region: nothing that compiled code calls could tell the checkpoint to enter one.)
    """
    return any(at.f_code is _CHECKPOINT for at in frames())


around_compilation._dynamo_marked_constant = True  # type: ignore[attr-defined]  # torch._dynamo.assume_constant_result
