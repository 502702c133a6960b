from __future__ import annotations

import pytest
import torch

import sll

torch.set_num_threads(1)  # two workers share two cores


@pytest.fixture(autouse=True)
def no_region_survives():
    """Every test leaves the mode stack, the default dtype and the grad mode as it found them."""
    before = (torch.overrides._len_torch_function_stack(), torch.get_default_dtype(), torch.is_grad_enabled())
    yield
    assert before == (torch.overrides._len_torch_function_stack(), torch.get_default_dtype(), torch.is_grad_enabled())


@pytest.fixture(autouse=True)
def a_lost_gradient_is_an_error(recwarn):
    """No test loses a gradient without saying so."""
    yield
    lost = [str(w.message) for w in recwarn.list if issubclass(w.category, sll.LostGradientWarning)]
    assert not lost, lost
