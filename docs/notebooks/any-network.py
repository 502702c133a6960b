# %% [markdown]
# # Train a network you did not write
#
# Three networks whose code knows nothing of gradients: quantized, spiking, and
# with a codebook. Each is put in a region as a module. It is a module still.

# %%
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

import sll

x, y = map(torch.tensor, load_digits(return_X_y=True))
x = x.float() / 16


def train(module, loss_of, rate=0.01, epochs=6):
    optimizer = torch.optim.Adam(module.parameters(), rate)
    losses = []
    for _ in range(epochs):
        for batch in torch.randperm(1200).split(120):
            loss = loss_of(module, batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses


# %% [markdown]
# ## Quantized
#
# Codes are `uint8` and `int8`. The layer is what runs on the chip.


# %%
class IntegerLinear(nn.Linear):
    def __init__(self, inputs, outputs):
        super().__init__(inputs, outputs)
        self.step = nn.Parameter(torch.tensor(0.5))
        self.weight_step = nn.Parameter(2 * self.weight.detach().abs().mean())

    def forward(self, x):
        codes = torch.round(torch.clamp(x / self.step, 0, 3)).to(torch.uint8)
        weights = torch.clamp(self.weight / self.weight_step, -2, 1)
        weights = torch.round(weights).to(torch.int8)
        sums = codes.float() @ weights.float().T
        return sums * (self.step * self.weight_step) + self.bias


torch.manual_seed(0)
network = nn.Sequential(IntegerLinear(64, 64), IntegerLinear(64, 10))
module = sll.linearize("auto")(network)
cross_entropy = lambda net, batch: F.cross_entropy(net(x[batch]), y[batch])
train(module, cross_entropy)
right = network(x[1200:]).argmax(1) == y[1200:]
f"{100 * right.float().mean():.0f} % right, outside of any region"

# %% [markdown]
# Parameters and the keys of `state_dict` are those of the network.

# %%
isinstance(module, nn.Module), [*module.state_dict()] == [*network.state_dict()]

# %% [markdown]
# ## Spiking
#
# snnTorch's neurons with their plain spike, `(membrane > 1).float()`.

# %%
import snntorch


class Spiking(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(64, 32), nn.Linear(32, 10)
        self.hidden = snntorch.Leaky(0.9, surrogate_disable=True)
        self.last = snntorch.Leaky(0.9, surrogate_disable=True)

    def forward(self, x):
        u, v = self.hidden.reset_mem(), self.last.reset_mem()
        membranes = []
        for _ in range(8):
            spikes, u = self.hidden(self.a(x), u)
            _, v = self.last(self.b(spikes), v)
            membranes.append(v)
        return torch.stack(membranes).mean(0)


torch.manual_seed(0)
network = Spiking()
train(sll.linearize("auto")(network), cross_entropy, rate=0.03)
right = network(x[1200:]).argmax(1) == y[1200:]
f"{100 * right.float().mean():.0f} % right"

# %% [markdown]
# Where do the gradients come from? The lines of snnTorch are named, too.

# %%
sll.explain(network, x[:50])

# %% [markdown]
# ## A codebook
#
# `argmin` chooses a word, and a lookup fetches it. There is one loss.


# %%
class Autoencoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(64, 16)
        self.codebook = nn.Parameter(0.5 * torch.randn(16, 4))
        self.decoder = nn.Linear(16, 64)

    def code(self, x):
        words = self.encoder(x).unflatten(1, (4, 4))
        return torch.cdist(words, self.codebook).argmin(-1)

    def forward(self, x):
        return self.decoder(self.codebook[self.code(x)].flatten(1))


torch.manual_seed(0)
network = Autoencoder()
square = lambda net, batch: F.mse_loss(net(x[batch]), x[batch])
losses = train(sll.linearize("auto")(network), square, epochs=12)
plt.figure(figsize=(7, 2.4))
for i in range(6):
    image = x[1200 + i : 1201 + i]
    pictures = torch.cat([image, network(image).detach()])
    plt.subplot(1, 6, i + 1)
    plt.imshow(pictures.reshape(16, 8), cmap="gray_r")
    plt.axis("off")
f"{len(network.code(x).unique())} of 16 words in use; below: two bytes"
