"""Accelerate and the Hugging Face Trainer call a module that is a region, as `docs/integrations.md` says."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch
from torch import nn

import sll

pytestmark = [
    pytest.mark.slow,  # transformers takes seconds to import
    pytest.mark.skipif(None in map(find_spec, ("accelerate", "transformers")), reason="needs both (make third-party)"),
]

STEPS = 60


class Signs(nn.Module):
    """Its first layer has no gradient without a region. It returns what a Trainer asks for."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(8, 16), nn.Linear(16, 2)

    def forward(self, x, labels=None):
        logits = self.last(torch.sign(self.first(x)))
        found = {} if labels is None else {"loss": nn.functional.cross_entropy(logits, labels)}
        return {**found, "logits": logits}


@pytest.fixture
def trained():
    """A model, the region that is one, and its data; afterwards the first layer has moved, and is deployed as it is."""
    torch.manual_seed(0)
    model = Signs()
    module = sll.linearize("auto")(model)
    first = model.first.weight.clone()
    x = torch.randn(256, 8)
    labels = (x[:, 0] * x[:, 1] > 0).long()
    assert model.first.weight.grad is None
    yield model, module, x, labels
    assert (model.first.weight - first).abs().sum() > 1
    with torch.no_grad():
        right = (model(x)["logits"].argmax(1) == labels).float().mean()
    assert right > 0.7  # half of them at the start


def test_accelerate(trained):
    import accelerate

    model, module, x, labels = trained
    accelerator = accelerate.Accelerator(cpu=True)
    prepared, optimizer = accelerator.prepare(module, torch.optim.Adam(module.parameters(), 0.02))
    for _ in range(STEPS):
        loss = prepared(x, labels=labels)["loss"]
        optimizer.zero_grad()
        accelerator.backward(loss)
        optimizer.step()
    assert list(accelerator.unwrap_model(prepared).state_dict()) == list(model.state_dict())


def test_trainer(trained, tmp_path):
    import transformers
    from safetensors.torch import load_file

    model, module, x, labels = trained
    options = {"max_steps": STEPS, "per_device_train_batch_size": 64, "learning_rate": 0.02, "use_cpu": True}
    arguments = transformers.TrainingArguments(str(tmp_path), report_to=[], save_strategy="no", **options)
    data = [{"x": each, "labels": label} for each, label in zip(x, labels)]
    trainer = transformers.Trainer(model=module, args=arguments, train_dataset=data)
    trainer.train()
    trainer.save_model(str(tmp_path))
    saved = load_file(tmp_path / "model.safetensors")
    assert sorted(saved) == sorted(model.state_dict())
