"""Learn to rank: the NDCG that you report is the loss, sorted by `argsort`.

A model scores the documents of a query, and what counts is the NDCG of the
first five. It depends on the scores through their order alone, so people train
a stand-in (RankNet, LambdaRank, ListNet). In a region the sort has a gradient:
neighbours in the order trade places.
"""

import matplotlib.pyplot as plt
import torch
from torch import nn

import sll

TOP, DOCUMENTS = 5, 16
place = torch.arange(DOCUMENTS)
discount = (place < TOP) / torch.log2(place + 2.0)


def ndcg(scores, grades):
    order = scores.argsort(1, descending=True)
    best = grades.sort(1, descending=True).values
    found = grades.gather(1, order)
    return ((found * discount).sum(1) / (best * discount).sum(1)).mean()


torch.manual_seed(0)
x = torch.randn(160, DOCUMENTS, 8)
match, quality = x[..., 0] + x[..., 1] - x[..., 2] / 2, x[..., 3] - x[..., 4]
worth = match + match.relu() * quality + 0.7 * torch.randn(160, DOCUMENTS)
grades = torch.bucketize(worth, torch.tensor([0.0, 1.5, 3.0, 4.5]))
grades[:, 0].clamp_(min=1)  # something is relevant to each query


def train(region):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 1, bias=False), nn.Flatten(1))
    optimizer = torch.optim.Adam(model.parameters(), 0.03)
    scores = []
    for _ in range(100):
        with region:
            loss = 1 - ndcg(model(x[:60]), grades[:60])
        optimizer.zero_grad()
        if loss.requires_grad:
            loss.backward()
        optimizer.step()
        scores.append(100 * ndcg(model(x[60:]), grades[60:]).item())
    return scores


plain, ours = train(sll.hard()), train(sll.linearize("auto"))
print(f"NDCG@5 of new queries: plain {plain[-1]:.0f} %, sll {ours[-1]:.0f} %")
plt.plot(plain, ":", color="gray", label="plain")
plt.plot(ours, label="in a region")
plt.xlabel("step")
plt.ylabel("NDCG@5 of new queries, %")
plt.legend()
plt.savefig("ranking.png")
