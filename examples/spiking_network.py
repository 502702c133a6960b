"""Train snnTorch's neurons as they are, with no surrogate gradient to choose.

A leaky integrate-and-fire neuron fires or does not: `(membrane > 1).float()`.
Its gradient is zero, so each library has a shelf of surrogates, one of which
has to be given to every neuron. Here the neurons are unmodified.
"""

import matplotlib.pyplot as plt
import snntorch
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from snntorch import spikegen
from torch import nn

import sll

STEPS = 10


class SpikingNetwork(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(64, 32), nn.Linear(32, 10)
        self.hidden = snntorch.Leaky(0.9, surrogate_disable=True)
        self.last = snntorch.Leaky(0.9, surrogate_disable=True)

    def forward(self, spikes):
        u, v = self.hidden.reset_mem(), self.last.reset_mem()
        fired, membranes = [], []
        for x in spikes:
            x, u = self.hidden(self.a(x), u)
            x, v = self.last(self.b(x), v)
            fired, membranes = fired + [x], membranes + [v]
        return torch.stack(fired), torch.stack(membranes)


x, y = map(torch.tensor, load_digits(return_X_y=True))
x = x.float() / 16
torch.manual_seed(0)
network, region = SpikingNetwork(), sll.linearize("auto")
optimizer = torch.optim.Adam(network.parameters(), 0.03)
for _ in range(10):
    for batch in torch.randperm(1200).split(120):
        with region:
            _, membranes = network(spikegen.rate(x[batch], STEPS))
            loss = F.cross_entropy(membranes.mean(0), y[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

fired, _ = network(spikegen.rate(x[1200:], STEPS))
right = fired.sum(0).argmax(1) == y[1200:]
print(f"deployed spiking network: {100 * right.float().mean():.0f} % right")
plt.imshow(fired[:, :40].sum(0).T.detach(), cmap="Greys", aspect="auto")
plt.plot(y[1200:1240], "o", fillstyle="none", label="the digit")
plt.xlabel("image")
plt.ylabel("output neuron (dark: spikes often)")
plt.legend(loc="upper right")
plt.savefig("spiking_network.png")
