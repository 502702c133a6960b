# %% [markdown]
# # 十分钟
#
# `round`、`sign`、`x > 0` 和 `argmax` 没有可用的梯度。
# 在区域（region）里它们有，而你的代码一字不改。

# %%
import matplotlib.pyplot as plt
import torch

import sll

# %% [markdown]
# ## 一个梯度
#
# 掩码、等级、查表：在普通的 PyTorch 里，没有任何东西传递梯度。

# %%
table = torch.linspace(0, 1, 16)


def program(x):
    mask = (x > 0) & (x < 2)
    level = torch.round(x * 4).long().clamp(-8, 7)
    return torch.where(mask, table[level + 8], -1.0)


x = torch.linspace(-1, 3, 400, requires_grad=True)
program(x).requires_grad  # 没有路径回到 x

# %%
with sll.linearize("auto"):
    y = program(x)
y.sum().backward()
torch.equal(y, program(x)), x.grad.abs().sum()

# %% [markdown]
# 数值是程序自己的，逐位相同。梯度来自每个决策处的斜坡。
# `"auto"` 测出斜坡有多宽，`forward="linear"` 把斜坡显示出来。

# %%
with sll.linearize(0.05, forward="linear"):
    ramps = program(x)
plt.figure(figsize=(7, 2.8))
plt.plot(x.detach(), ramps.detach(), label="ramps of half-width 0.05")
plt.plot(x.detach(), program(x), ":", color="black", label="the program")
plt.legend();

# %% [markdown]
# ## 训练一个网络
#
# 权重和激活都是符号，与部署时一样。

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
# `sll.hard()` 是什么都不改变的区域。区域在循环之前建一次：它记住测得的宽度。
#
# ## 逐行看发生了什么
#
# 带 `trace=True` 的区域报告每一个做决策的调用。

# %%
with sll.linearize("auto", trace=True) as region:
    network = Signs()
    network(images[:100]).square().mean().backward()
region.report()

# %% [markdown]
# ## 丢失的梯度
#
# `.item()` 离开了 PyTorch，梯度到此为止。`sll.explain` 指出是哪一行，
# 以及应当怎样写。


# %%
def rate(x):
    near = (x - 1).abs() < 0.5
    level = torch.where(near, torch.round(4 * x), torch.floor(x))
    return level.sum() / near.sum().item()


sll.explain(rate, torch.linspace(0.06, 2.9, 40, requires_grad=True))

# %% [markdown]
# ## 梯度对吗？
#
# `sll.check` 拿它与硬程序本身对照。

# %%
inside = lambda x: ((x > 0.3) & (x < 0.8)).float().mean()
sll.check(inside, torch.linspace(0, 1, 50), eps=0.01)
