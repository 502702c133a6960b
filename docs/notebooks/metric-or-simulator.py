# %% [markdown]
# # Optimise a metric or a simulator
#
# What you report, and what you simulate, is made of decisions.
# In a region it is a loss.

# %%
import matplotlib.pyplot as plt
import torch

# %% [markdown]
# ## A metric of torchmetrics
#
# Which pixels of a noisy picture belong to small discs? Only 3 % of them do.
# The score is the IoU (Jaccard index) of torchmetrics, unmodified.
# %%
from torchmetrics.functional.classification import binary_jaccard_index

import sll

torch.manual_seed(0)
center, radius = 24 * torch.rand(40, 2, 2, 1, 1), torch.rand(40, 2, 1, 1)
grid = torch.meshgrid(torch.arange(24.0), torch.arange(24.0), indexing="ij")
distance = (torch.stack(grid) - center).norm(dim=2)
discs = (distance < 1 + 1.5 * radius).any(1, keepdim=True).long()
pictures = discs + 0.6 * torch.randn(discs.shape)


def iou_loss(scores, target):
    # validate_args would ask for values: a question without a gradient
    yes = (scores > 0).long()
    return 1 - binary_jaccard_index(yes, target, validate_args=False)


def cross_entropy(scores, target):
    loss = torch.nn.functional.binary_cross_entropy_with_logits
    return loss(scores, target.float())


def fit(loss_of, region, rate, steps):
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 5, padding=2),
        torch.nn.ReLU(),
        torch.nn.Conv2d(4, 1, 3, padding=1),
    )
    optimizer = torch.optim.Adam(model.parameters(), rate)
    for _ in range(steps):
        with region:
            loss = loss_of(model(pictures[:8]), discs[:8])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    score = 1 - iou_loss(model(pictures[8:]), discs[8:])
    return round(100 * score.item())


usual = fit(cross_entropy, sll.hard(), 0.03, 300)
ours = fit(iou_loss, sll.linearize("auto"), 0.1, 100)
f"IoU on new pictures: cross-entropy {usual} %, the IoU itself {ours} %"

# %% [markdown]
# ## A simulator with `if`
#
# Python's `if` asks for a number, and every gradient ends there. A decorated
# function with `paths=N` runs again for the answers that are open.

# %%
region = sll.linearize(0.5, forward="hard", paths=16)


@region
def heating(setpoint):
    room, on, cost = torch.tensor(12.0), False, torch.zeros(())
    for _ in range(20):
        if room < setpoint - 0.5:
            on = True
        elif room > setpoint + 0.5:
            on = False
        room = room + (1.2 if on else 0.0) - 0.05 * (room - 5.0)
        cost = cost + (0.3 if on else 0.0) + 0.02 * (room - 20.0) ** 2
    return cost


setpoint = torch.tensor(16.0, requires_grad=True)
optimizer = torch.optim.SGD([setpoint], 0.3)
path = []
for _ in range(25):
    cost = heating(setpoint)
    path.append((setpoint.item(), cost.item()))
    optimizer.zero_grad()
    cost.backward()
    optimizer.step()
(before, first), (after, last) = path[0], path[-1]
f"cost {first:.1f} at {before:.1f}, {last:.1f} at {after:.1f}"

# %%
points = torch.linspace(15, 22, 141)
plt.figure(figsize=(7, 2.8))
costs = [heating(p).item() for p in points]
plt.plot(points, costs, ":", label="the simulator")
plt.plot(*zip(*path), "o-", markersize=4, label="descent in a region")
plt.xlabel("setpoint")
plt.ylabel("cost")
plt.legend();

# %% [markdown]
# ## Is the gradient right?
#
# `sll.check` moves the arguments, and compares what the hard program does with
# what the gradient says.


# %%
def served(stock, demand):
    return torch.minimum(torch.round(stock), demand).sum() - 0.1 * stock.sum()


torch.manual_seed(0)
demand = torch.randint(0, 20, (200,)).float()
sll.check(lambda stock: served(stock, demand), 20 * torch.rand(200), eps=0.3)

# %% [markdown]
# A gradient that is lost on the way is found, and the line is named.

# %%
sll.check(
    lambda stock: served(stock.detach(), demand) + 0 * stock.sum(),
    20 * torch.rand(200),
    eps=0.3,
)
