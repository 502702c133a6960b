from __future__ import annotations

import pytest
import torch

import sll
from sll.region import _THREAD

torch.set_num_threads(1)  # two workers share two cores


@pytest.fixture(autouse=True)
def no_region_survives():
    """Every test leaves the mode stack, our own books, the default dtype and the grad mode as it found them."""

    def state():
        modes = torch.overrides._len_torch_function_stack()
        return modes, len(_THREAD.live), _THREAD.inner_at_work, torch.get_default_dtype(), torch.is_grad_enabled()

    before = state()
    yield
    assert state() == before == (0, 0, False, torch.float32, True)


@pytest.fixture(autouse=True)
def a_lost_gradient_is_an_error(recwarn):
    """No test loses a gradient without saying so."""
    yield
    lost = [str(w.message) for w in recwarn.list if issubclass(w.category, sll.LostGradientWarning)]
    assert not lost, lost
