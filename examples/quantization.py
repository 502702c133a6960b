"""Train the 2-bit integer network that you deploy, its casts to int8 included.

Weights become one of four codes, so do activations, and each layer learns what
a code is worth. `IntegerLinear` is plain PyTorch. In a region its gradient is
that of LSQ (learned step size quantization), with no second program to write.
"""

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

import sll


class IntegerLinear(nn.Linear):
    def __init__(self, inputs, outputs):
        super().__init__(inputs, outputs)
        self.step = nn.Parameter(torch.tensor(0.5))
        self.weight_step = nn.Parameter(2 * self.weight.detach().abs().mean())

    def forward(self, x):
        codes = torch.round(torch.clamp(x / self.step, 0, 3)).to(torch.uint8)
        weights = torch.clamp(self.weight / self.weight_step, -2, 1)
        weights = torch.round(weights).to(torch.int8)
        sums = codes.float() @ weights.float().T  # whole numbers, exact
        return sums * (self.step * self.weight_step) + self.bias


x, y = map(torch.tensor, load_digits(return_X_y=True))
x = x.float() / 16


def train(region):
    torch.manual_seed(0)
    network = nn.Sequential(*(IntegerLinear(64, n) for n in (64, 64, 10)))
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    accuracies = []
    for _ in range(15):
        for batch in torch.randperm(1200).split(64):
            with region:
                loss = F.cross_entropy(network(x[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        right = network(x[1200:]).argmax(1) == y[1200:]
        accuracies.append(100 * right.float().mean().item())
    return accuracies


plain, ours = train(sll.hard()), train(sll.linearize("auto"))
print(f"integer network: plain {plain[-1]:.0f} %, sll {ours[-1]:.0f} %")
plt.plot(plain, ":", color="gray", label="plain")
plt.plot(ours, label="in a region")
plt.xlabel("epoch")
plt.ylabel("accuracy on new digits, %")
plt.legend()
plt.savefig("quantization.png")
