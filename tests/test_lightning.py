"""Lightning: a module and a trainer that never heard of regions, and what Lightning does to them."""

from __future__ import annotations

import logging
import re
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import sll
from compatibility import row

lightning = pytest.importorskip("lightning")
AREA = "training loops"


class Module(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 16), nn.Linear(16, 2)

    def forward(self, x):
        return self.last(torch.sign(self.first(x)))

    def training_step(self, batch, _):
        x, y = batch
        return nn.functional.cross_entropy(self(x), y)

    validation_step = training_step

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def data():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(64, 4, generator=g)
    return x, (x[:, 0] > 0).long()


def trainer(**options):
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    return lightning.Trainer(
        accelerator="cpu", devices=1, max_epochs=2, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, **options,
    )  # fmt: skip


def by_hand(region, dtype=None):
    torch.manual_seed(0)
    net = Module()
    optimizer = net.configure_optimizers()
    for _ in range(2):
        for x, y in zip(*(t.split(16) for t in data())):
            optimizer.zero_grad()
            with region, torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
                nn.functional.cross_entropy(net(x), y).backward()
            optimizer.step()
    return [p.detach() for p in net.parameters()]


@row(AREA, "Lightning: `trainer.fit` in a region, or a decorated `training_step`; full and mixed precision", "works")
@pytest.mark.parametrize("precision", [None, "bf16-mixed"])
@pytest.mark.parametrize("decorated", [False, True])
def test_fit(precision, decorated):
    region = sll.linearize(0.5)
    torch.manual_seed(0)
    net = Module()
    before = net.first.weight.detach().clone()
    if decorated:
        net.training_step = region(net.training_step)
    loader = DataLoader(TensorDataset(*data()), batch_size=16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the number of workers
        run = trainer(precision=precision)
        if decorated:
            run.fit(net, loader, loader)
        else:
            with region:
                run.fit(net, loader, loader)
    want = by_hand(region, torch.bfloat16 if precision else None)
    torch.testing.assert_close([p.detach() for p in net.parameters()], want)
    assert not torch.equal(before, net.first.weight)


def test_callback():
    """That of `docs/integrations.md`: training runs in its region, validation does not, and nothing is left behind."""
    page = (Path(__file__).parent.parent / "docs" / "integrations.md").read_text(encoding="utf-8")
    names: dict = {}
    exec(re.findall(r"```python\n(.*?)```", page, re.DOTALL)[0], names)
    seen = []

    class Watched(Module):
        def forward(self, x):
            seen.append((self.training, torch.overrides._len_torch_function_stack() > 0))
            return super().forward(x)

    torch.manual_seed(0)
    net, callback = Watched(), names["Linearized"](0.5)
    loader = DataLoader(TensorDataset(*data()), batch_size=16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer(callbacks=[callback]).fit(net, loader, loader)
    torch.testing.assert_close([p.detach() for p in net.parameters()], by_hand(sll.linearize(0.5)))
    assert set(seen) == {(True, True), (False, False)} and "training_step" not in vars(net)
