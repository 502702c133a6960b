"""Choose two of thirty measurements, and learn to diagnose with them, at once.

Each measurement of a tumour costs time, so the program takes two, the same for
everybody: `scores.topk(2).indices`, which have no gradient. In a region with
a wide band, features that are neighbours in the order of scores trade places.
"""

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from sklearn.datasets import load_breast_cancer
from torch import nn

import sll

data = load_breast_cancer()
x, y = torch.tensor(data.data, dtype=torch.float32), torch.tensor(data.target)
x = (x - x.mean(0)) / x.std(0)


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.scores = nn.Parameter(0.1 * torch.randn(30))
        self.hidden, self.last = nn.Linear(30, 16), nn.Linear(16, 2)

    def forward(self, x):
        chosen = self.scores.topk(2).indices
        mask = torch.zeros(30).scatter(0, chosen, 1.0)
        return self.last(torch.relu(self.hidden(x * mask)))


def train(region, seed):
    torch.manual_seed(seed)
    order, network = torch.randperm(len(y)), Network()
    train, test = order[:400], order[400:]
    optimizer = torch.optim.Adam(network.parameters(), 0.1)
    for _ in range(150):
        with region:
            loss = F.cross_entropy(network(x[train]), y[train])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    right = network(x[test]).argmax(1) == y[test]
    return 100 * right.float().mean().item()


plain = [train(sll.hard(), seed) for seed in range(8)]
ours = [train(sll.linearize(1.0, forward="hard"), seed) for seed in range(8)]
average = lambda found: sum(found) / len(found)
print(f"right: plain {average(plain):.0f} %, sll {average(ours):.0f} %")
plt.plot(plain, "x", color="gray", label="the two it began with")
plt.plot(ours, "o", label="chosen in a region")
plt.xlabel("start")
plt.ylabel("right on new tumours, %")
plt.legend()
plt.savefig("feature_selection.png")
