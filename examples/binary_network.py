"""Train a network of signs: every weight and every activation is -1 or +1.

A binary network is 32 times smaller than one of floats, and multiplies by
comparing bits. But `sign` is flat, so no gradient reaches a weight. In a
region the two calls of `torch.sign` have one, and stand as they are deployed.
"""

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

import sll


class BinaryLinear(nn.Linear):
    def forward(self, x):
        return F.linear(x, torch.sign(self.weight))


class BinaryNetwork(nn.Module):
    def __init__(self):
        super().__init__()
        sizes = ((64, 128), (128, 128), (128, 10))
        self.layers = nn.ModuleList(BinaryLinear(a, b, False) for a, b in sizes)
        self.norms = nn.ModuleList(nn.BatchNorm1d(b) for _, b in sizes)

    def forward(self, x):
        x = self.norms[0](self.layers[0](x))
        for layer, norm in zip(self.layers[1:], self.norms[1:]):
            x = norm(layer(torch.sign(x)))
        return x


x, y = map(torch.tensor, load_digits(return_X_y=True))
x = x.float() / 16
torch.manual_seed(0)
network = BinaryNetwork()
before = torch.sign(network.layers[0].weight.detach())
optimizer = torch.optim.Adam(network.parameters(), 0.01)
region = sll.linearize("auto")
for _ in range(20):
    for batch in torch.randperm(1200).split(128):
        with region:
            loss = F.cross_entropy(network(x[batch]), y[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

right = network.eval()(x[1200:]).argmax(1) == y[1200:]
print(f"deployed binary network: {100 * right.float().mean():.0f} % right")
after = torch.sign(network.layers[0].weight.detach())
for i, (title, weights) in enumerate((("before", before), ("after", after))):
    tiles = F.pad(weights[:32].reshape(4, 8, 8, 8), (1, 1, 1, 1))
    picture = tiles.permute(0, 2, 1, 3).reshape(40, 80)
    plt.subplot(2, 1, i + 1, title=f"weights of 32 units, {title}")
    plt.imshow(picture, cmap="PuOr")
    plt.axis("off")
plt.savefig("binary_network.png")
