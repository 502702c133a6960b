"""Train a decision tree end to end: features and thresholds of all its splits.

Trees are grown greedily, one split after the other. On a checkerboard no first
split looks better than another, so a greedy tree splits on noise. Here all
splits are trained at once, of sixteen starts side by side, as plain PyTorch.
"""

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from sklearn.tree import DecisionTreeClassifier
from torch import nn

import sll


class Trees(nn.Module):
    """Depth two: node 0 is the root, 1 and 2 its children; four leaves."""

    path = torch.tensor([[0, 1], [0, 1], [0, 2], [0, 2]])
    turn = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]]).bool()

    def __init__(self, features, starts=16):
        super().__init__()
        self.scores = nn.Parameter(0.1 * torch.randn(starts, 3, features))
        self.threshold = nn.Parameter(0.3 * torch.randn(starts, 3))
        self.leaves = nn.Parameter(0.1 * torch.randn(starts, 4, 2))

    def forward(self, x):
        feature = self.scores.argmax(-1)
        right = x[:, feature] > self.threshold
        reached = (right[..., self.path] == self.turn).all(-1)
        return torch.einsum("nsl,slc->nsc", reached.float(), self.leaves)


torch.manual_seed(0)
x = 4 * torch.rand(800, 8) - 2  # two features matter, six do not
y = (x[:, 0] > 0) ^ (x[:, 1] > 0) ^ (torch.rand(800) < 0.05)
trees, region = Trees(8), sll.linearize("auto")
optimizer = torch.optim.Adam(trees.parameters(), 0.03)
for _ in range(80):
    with region:
        classes = trees(x[:400]).flatten(0, 1)
        labels = y[:400].long().repeat_interleave(16)
        loss = 16 * F.cross_entropy(classes, labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

right = trees(x).argmax(-1) == y[:, None]
best = right[:400].float().mean(0).argmax()
greedy = DecisionTreeClassifier(max_depth=2).fit(x[:400], y[:400])
ours, theirs = right[400:, best].float().mean(), greedy.score(x[400:], y[400:])
print(f"right: greedy tree {100 * theirs:.0f} %, sll {100 * ours:.0f} %")
plt.figure(figsize=(9, 4.2))
predicted = trees(x)[:, best].argmax(-1), torch.tensor(greedy.predict(x))
for i, (name, found) in enumerate(zip(("in a region", "greedy"), predicted)):
    plt.subplot(1, 2, i + 1, title=f"prediction, {name}", aspect=1)
    plt.scatter(x[:, 0], x[:, 1], c=found, cmap="coolwarm", s=8)
plt.savefig("decision_tree.png")
