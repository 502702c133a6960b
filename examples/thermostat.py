"""Tune a simulator in plain Python by gradient: a thermostat with `if`s.

The rules decide `if`s and nothing else; all that follows is numbers of Python,
and PyTorch has no gradient at all. With `paths=` the function runs again for
each answer that was close, and the difference of the results is the gradient.
"""

import math
from random import Random

import matplotlib.pyplot as plt
import torch

import sll


def house(rules, luck):
    outside, swing = luck.gauss(2, 4), luck.uniform(2, 5)
    room, on, cost, hour = 18.0, False, 0.0, 0.0
    while hour < 24:
        target, gap, before = rules[int(hour)], rules[24], on
        if on:
            if room > target + gap / 2:
                on = False
        elif room < target - gap / 2:
            on = True
        cold = outside - swing * math.cos((hour - 3) * math.pi / 12)
        room += 0.05 * (cold - room) + (1.5 if on else 0.0)
        wanted = 20 if 7 <= hour < 9 or 17 <= hour < 23 else 15
        price = 1.5 if 7 <= hour < 9 or 17 <= hour < 20 else 0.6
        cold = max(wanted - room, 0)
        cost += 0.5 * price * on + 0.1 * cold**2 + 0.1 * (on != before)
        hour += 0.5
    return rules.new_tensor(cost)


start = torch.tensor([20.0] * 24 + [1.0])
rules, luck = start.clone().requires_grad_(), Random(0)
optimizer = torch.optim.Adam([rules], 0.5)
day = sll.linearize(1.0, forward="hard", paths=4)(house)
for _ in range(150):
    cost = day(rules, luck)
    optimizer.zero_grad()
    if cost.requires_grad:  # nothing was close otherwise
        cost.backward()
        optimizer.step()


def mean(rules):
    return sum(house(rules, Random(i)).item() for i in range(100, 200)) / 100


after = rules.detach()
print(f"cost of a day: {mean(start):.1f} before, {mean(after):.1f} after")
plt.step(range(24), start[:24], ":", where="post", label="first guess")
plt.step(range(24), after[:24], where="post", label="tuned with paths=4")
plt.xlabel("hour")
plt.ylabel("target, °C")
plt.legend()
plt.savefig("thermostat.png")
