"""Train a forecast by what the van that it loads is worth, through the packing.

A program packs 20 parcels a day by predicted value per kilogram, until the van
is full. A regression wastes accuracy on parcels that are never in question.
The packing (`argsort`, `cumsum`, `<=`) has a gradient in a region.
"""

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import nn

import sll


def packed(predicted, value, weight):
    """What the vans carry, as a share of all that there is."""
    order = (predicted / weight).argsort(1, descending=True)
    capacity = weight.sum(1, keepdim=True) / 3
    taken = weight.gather(1, order).cumsum(1) <= capacity
    return ((value.gather(1, order) * taken).sum(1) / value.sum(1)).mean()


torch.manual_seed(0)
x = torch.randn(250, 20, 5)
basis = torch.tensor([1.2, 0.2, 1.2, 0.2, 1.2])
value = (2 + x @ basis / 5**0.5).clamp(min=0) ** 6 / 32
value = value * (0.7 + 0.6 * torch.rand(250, 20)) + 0.5
weight = torch.randint(3, 12, (250, 20)).float()


def train(loss_of, region, rate, steps):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 1), nn.Flatten(1))
    nn.init.constant_(model[0].bias, 4.0)
    optimizer = torch.optim.Adam(model.parameters(), rate)
    for _ in range(steps):
        with region:
            loss = loss_of(model(x[:50]), value[:50], weight[:50])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model(x[50:]).detach()


regression = train(lambda p, v, w: F.mse_loss(p, v), sll.hard(), 0.1, 200)
region = sll.linearize("auto", forward="linear")
ours = train(lambda p, v, w: 1 - packed(p, v, w), region, 0.3, 50)
best = packed(value[50:], value[50:], weight[50:])
a, b = (packed(p, value[50:], weight[50:]) / best for p in (regression, ours))
print(f"of the best: regression {100 * a:.1f} %, sll {100 * b:.1f} %")
for predicted, name in ((regression, "regression"), (ours, "in a region")):
    plt.loglog(value[50:].flatten(), predicted.flatten(), ".", ms=2, label=name)
plt.xlabel("value of a parcel")
plt.ylabel("its forecast: only the order counts")
plt.legend()
plt.savefig("knapsack.png")
