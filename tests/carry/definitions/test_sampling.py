"""Images read at the nearest element."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from defined import hold_the_line_integral, path, same_as_without, weighed

_G = torch.Generator().manual_seed(5)
IMAGE = torch.randn(1, 2, 3, 4, generator=_G, dtype=torch.float64)
VOLUME = torch.randn(1, 1, 3, 3, 3, generator=_G, dtype=torch.float64)


def read(x, **options):
    return F.grid_sample(IMAGE, x.view(1, 2, 2, 2) * 0.7, mode="nearest", **options)


PADDINGS = ("zeros", "border", "reflection")
PROGRAMS = {
    **{p: (lambda x, p=p: weighed(read(x, padding_mode=p, align_corners=False)), (8,)) for p in PADDINGS},
    "corners": (lambda x: weighed(read(x, align_corners=True)), (8,)),
    "volume": (
        lambda x: weighed(F.grid_sample(VOLUME, x.view(1, 1, 1, 2, 3) * 0.6, mode="nearest", align_corners=True)),
        (6,),
    ),
    "affine": (
        lambda x: weighed(F.grid_sample(
            IMAGE, F.affine_grid(x.view(1, 2, 3) * 0.5, [1, 1, 2, 2], align_corners=False), mode="nearest",
            align_corners=False,
        )), (6,),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PROGRAMS)
def test_line_integral(name):
    hold_the_line_integral(*PROGRAMS[name], wide=0.4)


@pytest.mark.parametrize("corners", [False, True])
@pytest.mark.parametrize("padding", PADDINGS)
def test_values_are_those_of_torch(padding, corners):
    x = path(400, low=-4, high=4)[0].requires_grad_()
    read = lambda x: F.grid_sample(
        IMAGE, x.view(1, 10, 20, 2), mode="nearest", padding_mode=padding, align_corners=corners
    )
    assert same_as_without(read, x)
