"""einops, torch.distributions, entmax, softtorch and torch's own functional layers on decisions."""

from __future__ import annotations

import einops
import entmax
import torch
import torch.distributions as d
from cases import add, normal, rows, seeded
from torch.nn import functional as F

N = 12
weight = torch.randn(N, generator=seeded(2), dtype=torch.float64)
table = torch.randn(6, 3, generator=seeded(9), dtype=torch.float64)


def count(x):
    return (x > 0).sum()


add(
    "einops",
    normal(4, 6),
    {
        "rearrange of a mask": lambda x: (
            einops.rearrange(x > 0, "a (b c) -> (a c) b", b=2).double() * weight[:2]
        ).sum(),
        "reduce max of a mask": lambda x: (einops.reduce((x > 0).double(), "a b -> b", "max") * weight[:6]).sum(),
        "reduce mean of a mask > .5": lambda x: (
            (einops.reduce((x > 0).double(), "a b -> b", "mean") > 0.4).double() * weight[:6]
        ).sum(),
        "reduce any of a mask": lambda x: (einops.reduce(x > 1, "a b -> a", "any").double() * weight[:4]).sum(),
        "repeat of a mask": lambda x: (einops.repeat(x > 0, "a b -> (a r) b", r=3).double().view(-1, N) @ weight).sum(),
        "einsum of a mask": lambda x: einops.einsum((x > 0).double(), x, "a b, a b -> a").square().sum(),
        "einsum of one-hots": lambda x: (
            einops.einsum(F.one_hot(x.argmax(1), 6).double(), table, "a c, c e -> a e").square().sum()
        ),
        "pack and unpack": lambda x: sum(
            (part.double() * weight[: part.numel()].view(part.shape)).sum()
            for part in einops.unpack(*einops.pack([x[:2] > 0, x[2:] > 0], "* b"), "* b")
        ),
    },
)
add(
    "torch.distributions",
    normal(N),
    {
        "Poisson.log_prob of floor": lambda x: (
            d.Poisson(torch.tensor(2.0).double(), validate_args=False).log_prob(torch.floor(x.abs() * 2)).sum()
        ),
        "Poisson.log_prob (validated)": lambda x: (
            d.Poisson(torch.tensor(2.0).double()).log_prob(torch.floor(x.abs() * 2)).sum()
        ),
        "Binomial.log_prob of a count": lambda x: d.Binomial(N, torch.tensor(0.4).double()).log_prob(count(x).double()),
        "Bernoulli.log_prob of a mask": lambda x: (
            d.Bernoulli(torch.tensor(0.3).double()).log_prob((x > 0).double()) * weight
        ).sum(),
        "Geometric.log_prob of floor": lambda x: (
            d.Geometric(torch.tensor(0.3).double()).log_prob(torch.floor(x.abs() * 2)).sum()
        ),
        "Categorical.log_prob of argmax": lambda x: (
            d.Categorical(logits=weight[:4]).log_prob(x.view(3, 4).argmax(1)).sum()
        ),
        "OneHotCategorical.log_prob": lambda x: (
            d.OneHotCategorical(logits=weight[:4]).log_prob(F.one_hot(x.view(3, 4).argmax(1), 4).double()).sum()
        ),
        "Uniform.cdf": lambda x: (
            d.Uniform(torch.tensor(-0.5).double(), torch.tensor(0.5).double(), validate_args=False).cdf(x).sum()
        ),
        "Uniform.log_prob of rounded": lambda x: (
            d.Uniform(torch.tensor(-5.0).double(), torch.tensor(5.0).double()).log_prob(torch.round(x)).sum()
            + torch.round(x).sum()
        ),
        "Laplace.icdf": lambda x: d.Laplace(torch.tensor(0.0).double(), 1.0).icdf(torch.sigmoid(x)).sum(),
        "MixtureSameFamily": lambda x: (
            d.MixtureSameFamily(d.Categorical(logits=weight[:2]), d.Normal(torch.tensor([-1.0, 1.0]).double(), 1.0))
            .log_prob(torch.round(x * 2))
            .sum()
        ),
    },
)
add(
    "entmax",
    rows(4, 6),
    {
        "sparsemax > 0": lambda x: ((entmax.sparsemax(x * 3, 1) > 0).double() @ weight[:6]).sum(),
        "entmax15 of a mask": lambda x: (entmax.entmax15((x > 0.5).double() * 2, 1) @ weight[:6]).sum(),
        "sparsemax": lambda x: (entmax.sparsemax(x * 3, 1) @ weight[:6]).sum(),
        "entmax_bisect": lambda x: (entmax.entmax_bisect(x * 3, 1.5, 1) @ weight[:6]).sum(),
        "sparsemax_loss of argmax": lambda x: entmax.sparsemax_loss(table[:4], x[:, :3].argmax(1)).sum(),
    },
)
scores = torch.randn(4, 6, generator=seeded(11), dtype=torch.float64)
embedding = torch.nn.EmbeddingBag.from_pretrained(table, mode="sum")
add(
    "torch.nn",
    rows(4, 6),
    {
        "cross_entropy with chosen targets": lambda x: F.cross_entropy(scores, x.argmax(1)),
        "nll_loss with chosen targets": lambda x: F.nll_loss(scores.log_softmax(1), x.argmax(1)),
        "multi_margin_loss": lambda x: F.multi_margin_loss(scores, x.argmax(1)),
        "embedding of argmax": lambda x: F.embedding(x.argmax(1), table).square().sum(),
        "EmbeddingBag of argmax": lambda x: embedding(x.argmax(1)[None]).square().sum(),
        "scaled_dot_product_attention(mask)": lambda x: (
            F.scaled_dot_product_attention(
                scores[None], scores[None], scores[None], attn_mask=(x @ x.T > 1.75)[None] | torch.eye(4).bool()
            )
            .square()
            .sum()
        ),
        "masked_fill softmax": lambda x: (
            scores.masked_fill((x < 0.5) & (torch.arange(6) > 0), -torch.inf).softmax(1) @ weight[:6]
        ).sum(),
        "binary_cross_entropy of a mask": lambda x: F.binary_cross_entropy(scores.sigmoid(), (x > 0.5).double()),
        "grid_sample(nearest)": lambda x: F.grid_sample(
            table.view(1, 1, 6, 3), x.view(1, 2, 6, 2) * 1.8 - 0.9, mode="nearest", align_corners=False
        ).sum(),
        "max_pool1d's indices": lambda x: F.max_pool1d(x[None], 2, return_indices=True)[1].double().sum(),
        "cummax's indices": lambda x: x.cummax(1).indices.double().sum(),
        "isin": lambda x: (torch.isin(x.argmax(1), torch.tensor([0, 3])).double() * weight[:4]).sum(),
        "repeat_interleave": lambda x: weight[:4].repeat_interleave((x[:, 0] * 4).long(), output_size=None).sum(),
        "bincount of argmax": lambda x: (torch.bincount(x.argmax(1), minlength=6).double() * weight[:6]).sum(),
        "histc": lambda x: (torch.histc(x[:, :2], 4, 0.0, 1.0) * weight[:4]).sum(),
        "histogram": lambda x: (torch.histogram(x[:, :2], 4, range=(0.0, 1.0)).hist * weight[:4]).sum(),
        "dropout by a mask": lambda x: (F.relu(x - 0.5) * (x > 0.5) * scores).sum(),
        "gumbel-free hard softmax": lambda x: (
            torch.zeros_like(x).scatter_(1, x.topk(2).indices, 1.0).bool().double() * scores
        ).sum(),
    },
)


def near_thirds(g):
    """(A mode in "linear" shows what no end outside of all bands does. So the ends are known to be outside.)"""
    return (rows(4, 6)(g) * 3).round() / 3 + 0.2 * (torch.rand(4, 6, generator=g, dtype=torch.float64) - 0.5)


add(
    "torch.nn",
    near_thirds,
    {
        "mode of rounded": lambda x: ((x * 3).round().mode(1).values * weight[:4]).sum(),
        "unique of rounded": lambda x: (x * 3).round().unique().square().sum(),
    },
)
