"""Tune the rules of a thermostat by gradient, through an unmodified simulator.

The heating is on below the target of the hour, off above it, with a gap so
that the relay does not chatter. 25 numbers are to be set: 24 targets, one gap.
The rule is a comparison, so people search. In a region the simulator has a
gradient, which says for all 25 numbers at once where to go.
"""

import matplotlib.pyplot as plt
import torch

import sll

hours = torch.arange(24)
wanted = torch.where((hours >= 7) & (hours < 9) | (hours >= 17), 20.0, 15.0)


def simulate(rules, outside, price):
    target, gap = rules[:24], rules[24]
    room = torch.full((len(price),), 18.0)
    on = torch.zeros(len(price), dtype=torch.bool)
    cost, rooms = torch.zeros(len(price)), []
    for hour in range(24):
        before = on
        on = room < target[hour] + torch.where(on, gap / 2, -gap / 2)
        room = room + 0.1 * (outside[:, hour] - room) + 3.0 * on
        cold = torch.relu(wanted[hour] - room)
        wear = 0.1 * (on != before)
        cost = cost + price[:, hour] * on + 0.2 * cold.square() + wear
        rooms.append(room)
    return cost, torch.stack(rooms, 1)


torch.manual_seed(0)
peaks = torch.exp(-((hours - 8) ** 2) / 4) + torch.exp(-((hours - 18) ** 2) / 6)
price = 0.6 + 0.9 * peaks * (0.7 + 0.6 * torch.rand(64, 1))
outside = 2 + 4 * torch.randn(64, 1) + 0.4 * torch.randn(64, 24).cumsum(1)
outside = outside - 3.5 * torch.cos((hours - 3) * torch.pi / 12)

start = torch.tensor([20.0] * 24 + [1.0])
rules = start.clone().requires_grad_()
optimizer, region = torch.optim.Adam([rules], 0.3), sll.linearize("auto")
for _ in range(24):
    with region:
        loss = simulate(rules, outside[:16], price[:16])[0].mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

new = outside[16:], price[16:]
before, as_it_was = simulate(start, *new)
after, tuned = simulate(rules.detach(), *new)
print(f"cost of a day: {before.mean():.1f} before, {after.mean():.1f} after")
plt.step(hours, wanted, "--", color="gray", where="post", label="wanted")
plt.plot(hours + 1, as_it_was[0], ":", label="first guess")
plt.plot(hours + 1, tuned[0], label="tuned in a region")
plt.xlabel("hour of a new day")
plt.ylabel("room temperature, °C")
plt.legend()
plt.savefig("controller.png")
