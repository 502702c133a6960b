# %% [markdown]
# # Ten minutes
#
# `round`, `sign`, `x > 0` and `argmax` have no useful gradient.
# In a region they have one, and your code stays as it is.

# %%
import matplotlib.pyplot as plt
import torch

import sll

# %% [markdown]
# ## A gradient
#
# A mask, a level, a table: nothing passes a gradient in plain PyTorch.

# %%
table = torch.linspace(0, 1, 16)


def program(x):
    mask = (x > 0) & (x < 2)
    level = torch.round(x * 4).long().clamp(-8, 7)
    return torch.where(mask, table[level + 8], -1.0)


x = torch.linspace(-1, 3, 400, requires_grad=True)
program(x).requires_grad  # no path leads back to x

# %%
with sll.linearize("auto"):
    y = program(x)
y.sum().backward()
torch.equal(y, program(x)), x.grad.abs().sum()

# %% [markdown]
# The values are the program's own, bit for bit. The gradient is that of a ramp
# around each decision. `"auto"` measures how wide it is, and
# `forward="linear"` shows it.

# %%
with sll.linearize(0.05, forward="linear"):
    ramps = program(x)
plt.figure(figsize=(7, 2.8))
plt.plot(x.detach(), ramps.detach(), label="ramps of half-width 0.05")
plt.plot(x.detach(), program(x), ":", color="black", label="the program")
plt.legend();

# %% [markdown]
# ## Train a network
#
# Weights and activations are signs, as they are deployed.

# %%
from sklearn.datasets import load_digits

images, labels = map(torch.tensor, load_digits(return_X_y=True))
images = images.float() / 8 - 1


class Signs(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = torch.nn.Linear(64, 128), torch.nn.Linear(128, 10)

    def forward(self, x):
        x = torch.sign(x @ self.a.weight.sign().T)
        return x @ self.b.weight.sign().T / 8


def train(region, steps=60):
    torch.manual_seed(0)
    network = Signs()
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    for _ in range(steps):
        with region:
            scores = network(images[:1200])
            loss = torch.nn.functional.cross_entropy(scores, labels[:1200])
        optimizer.zero_grad()
        if loss.requires_grad:
            loss.backward()
        optimizer.step()
    right = network(images[1200:]).argmax(1) == labels[1200:]
    return round(100 * right.float().mean().item())


plain, ours = train(sll.hard()), train(sll.linearize("auto"))
f"right on new digits: plain {plain} %, in a region {ours} %"

# %% [markdown]
# `sll.hard()` is a region that changes nothing. Make a region once, before the
# loop: it remembers the widths that it measured.
#
# ## What happened, line by line
#
# A region with `trace=True` reports on each call that decides.

# %%
with sll.linearize("auto", trace=True) as region:
    network = Signs()
    network(images[:100]).square().mean().backward()
region.report()

# %% [markdown]
# ## A gradient that is lost
#
# `.item()` leaves PyTorch, so the gradient ends there. `sll.explain` names the
# line, and says what to write instead.


# %%
def rate(x):
    near = (x - 1).abs() < 0.5
    level = torch.where(near, torch.round(4 * x), torch.floor(x))
    return level.sum() / near.sum().item()


sll.explain(rate, torch.linspace(0.06, 2.9, 40, requires_grad=True))

# %% [markdown]
# ## Is a gradient right?
#
# `sll.check` holds it against the hard program.

# %%
inside = lambda x: ((x > 0.3) & (x < 0.8)).float().mean()
sll.check(inside, torch.linspace(0, 1, 50), eps=0.01)
