"""Compress a photograph: two words of a codebook of 16 for 4 x 4 pixels.

`argmin` finds the nearest word and a lookup fetches it, so no gradient passes
back to the encoder. VQ-VAE copies the gradient across and adds two losses.
In a region the autoencoder has one loss, the squared error, and one program.
"""

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from sklearn.datasets import load_sample_image
from torch import nn

import sll


class Autoencoder(nn.Module):
    def __init__(self):
        super().__init__()
        layers = nn.Linear(48, 64), nn.ReLU(), nn.Linear(64, 8)
        self.encoder = nn.Sequential(*layers, nn.Unflatten(1, (2, 4)))
        self.codebook = nn.Parameter(0.5 * torch.randn(16, 4))
        layers = nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 48)
        self.decoder = nn.Sequential(nn.Flatten(), *layers)

    def code(self, patches):
        return torch.cdist(self.encoder(patches), self.codebook).argmin(-1)

    def forward(self, patches):
        return self.decoder(self.codebook[self.code(patches)])


pixels = torch.tensor(load_sample_image("flower.jpg")).permute(2, 0, 1) / 255
pixels = F.avg_pool2d(pixels[:, :424], 2)
patches = pixels.reshape(3, 53, 4, 80, 4).permute(1, 3, 0, 2, 4).reshape(-1, 48)


def train(region):
    torch.manual_seed(0)
    model = Autoencoder()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(400):
        batch = patches[torch.randint(len(patches), (128,))]
        with region:
            loss = F.mse_loss(model(batch), batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model(patches).detach(), len(model.code(patches).unique())


(plain, few), (ours, many) = train(sll.hard()), train(sll.linearize("auto"))
print(f"words of 16 in use: plain {few}, sll {many}")
plt.figure(figsize=(9, 2.4))
for i, found in enumerate((patches, plain, ours)):
    plt.subplot(1, 3, i + 1, title=("original", "plain", "in a region")[i])
    found = found.reshape(53, 80, 3, 4, 4).permute(0, 3, 1, 4, 2)
    plt.imshow(found.reshape(212, 320, 3).clamp(0, 1)[:, 54:266])
    plt.axis("off")
plt.savefig("vector_quantization.png")
