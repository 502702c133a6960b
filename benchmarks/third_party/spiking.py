"""Spiking layers of snnTorch, SpikingJelly and norse, with the hard step for their surrogate gradients."""

from __future__ import annotations

import norse.torch.functional.encode as encode
import norse.torch.functional.iaf as iaf
import norse.torch.functional.lif as lif
import norse.torch.functional.lif_box as lif_box
import norse.torch.functional.logical as logical
import snntorch
import snntorch.functional as losses
import torch
from cases import add, normal, seeded
from norse.torch.functional.heaviside import heaviside
from norse.torch.functional.reset import reset_subtract, reset_value
from spikingjelly.activation_based import functional, layer, neuron, surrogate

STEPS, NEURONS, INPUTS = 10, 3, 6
weight = torch.randn(INPUTS, STEPS * NEURONS, generator=seeded(1), dtype=torch.float64) * 0.5
by_time = torch.linspace(0.5, 1.5, STEPS, dtype=torch.float64)


def step(x):
    return (x > 0).to(x.dtype)


def currents(x):
    return (x @ weight).reshape(STEPS, NEURONS)


def of_snntorch(make, states=1):
    """The spikes of a layer over time, later ones counting more."""

    def f(x):
        cell = make().double()
        total, state = x.new_zeros(()), [x.new_zeros(NEURONS) for _ in range(states)]
        for t, current in enumerate(currents(x)):
            spikes, *state = cell(current, *state)
            total = total + spikes.sum() * by_time[t]
        return total

    return f


def recurrent(make):
    def f(x):
        cell = make().double()
        with torch.no_grad():
            for p in cell.parameters():
                p.fill_(-0.3)
        total, spikes, mem = x.new_zeros(()), x.new_zeros(NEURONS), x.new_zeros(NEURONS)
        for t, current in enumerate(currents(x)):
            spikes, mem = cell(current, spikes, mem)
            total = total + spikes.sum() * by_time[t]
        return total

    return f


def train(x):
    """(steps, batch, neurons) spikes of a Leaky layer."""
    cell, mem, out = snntorch.Leaky(beta=0.9, spike_grad=step), x.new_zeros(NEURONS), []
    for current in currents(x):
        spikes, mem = cell(current, mem)
        out.append(spikes)
    return torch.stack(out)[:, None]


goal = torch.tensor([1])
snn = {
    f"Leaky({reset})": of_snntorch(lambda reset=reset: snntorch.Leaky(beta=0.9, spike_grad=step, reset_mechanism=reset))
    for reset in ("subtract", "zero", "none")
}
add(
    "snntorch",
    normal(INPUTS),
    {
        **snn,
        "Leaky(learned threshold)": of_snntorch(
            lambda: snntorch.Leaky(beta=0.9, spike_grad=step, learn_threshold=True, learn_beta=True)
        ),
        "Lapicque": of_snntorch(lambda: snntorch.Lapicque(beta=0.9, threshold=0.5, spike_grad=step)),
        "Synaptic": of_snntorch(lambda: snntorch.Synaptic(alpha=0.8, beta=0.9, spike_grad=step), 2),
        "Alpha": of_snntorch(lambda: snntorch.Alpha(alpha=0.8, beta=0.7, spike_grad=step), 3),
        "RLeaky": recurrent(lambda: snntorch.RLeaky(beta=0.9, spike_grad=step, linear_features=NEURONS)),
        "ce_count_loss": lambda x: losses.ce_count_loss()(train(x), goal),
        "mse_count_loss": lambda x: losses.mse_count_loss(correct_rate=0.8, incorrect_rate=0.2)(train(x), goal),
        "ce_rate_loss": lambda x: losses.ce_rate_loss()(train(x), goal).sum(),
        "l1_rate_sparsity": lambda x: losses.l1_rate_sparsity(1.0)(train(x)),
    },
    eps=0.01,
    see_through=True,  # (the reset is detached)
)


def of_spikingjelly(make):
    def f(x):
        cell = make().double()
        functional.reset_net(cell)
        total = x.new_zeros(())
        for t, current in enumerate(currents(x)):
            total = total + cell(current).sum() * by_time[t]
        return total

    return f


class Step(torch.nn.Module):
    def forward(self, x):
        return surrogate.heaviside(x)


def jelly(kind, **options):
    return of_spikingjelly(lambda: kind(surrogate_function=Step(), **options))


add(
    "spikingjelly",
    normal(INPUTS),
    {
        "IFNode": jelly(neuron.IFNode),
        "IFNode(soft reset)": jelly(neuron.IFNode, v_reset=None),
        "IFNode(detach_reset)": jelly(neuron.IFNode, detach_reset=True),
        "LIFNode": jelly(neuron.LIFNode, tau=2.0),
        "LIFNode(soft reset)": jelly(neuron.LIFNode, tau=2.0, v_reset=None),
        "LIFNode(no decay_input)": jelly(neuron.LIFNode, tau=2.0, decay_input=False),
        "ParametricLIFNode": jelly(neuron.ParametricLIFNode),
        "QIFNode": jelly(neuron.QIFNode),
        "EIFNode": jelly(neuron.EIFNode),
        "KLIFNode": jelly(neuron.KLIFNode),
        "LIFNode(multi-step)": lambda x: _multi(neuron.LIFNode(tau=2.0, surrogate_function=Step(), step_mode="m"), x),
        "MaxPool2d of spikes": lambda x: layer.MaxPool2d(2, step_mode="s")(
            surrogate.heaviside(currents(x).reshape(1, 1, 5, 6) - 1)
        ).sum(),
    },
    eps=0.01,
)


def _multi(cell, x):
    functional.reset_net(cell)
    return (cell(currents(x)) * by_time[:, None]).sum()


def of_norse(advance, state, p):
    """The spikes of norse's functional steps."""

    def f(x):
        total, now = x.new_zeros(()), state(x)
        for t, current in enumerate(currents(x)):
            spikes, now = advance(current, now, p)
            total = total + spikes.sum() * by_time[t]
        return total

    return f


def box(reset):
    p = lif_box.LIFBoxParameters(tau_mem_inv=torch.as_tensor(300.0), method="heaviside", reset_method=reset)
    return of_norse(
        lif_box.lif_box_feed_forward_step, lambda x: lif_box.LIFBoxFeedForwardState(v=x.new_zeros(NEURONS)), p
    )


add(
    "norse",
    normal(INPUTS),
    {
        "iaf_feed_forward_step": of_norse(
            iaf.iaf_feed_forward_step,
            lambda x: iaf.IAFFeedForwardState(v=x.new_zeros(NEURONS)),
            iaf.IAFParameters(method="heaviside"),
        ),
        "lif_box_feed_forward_step": box(reset_value),
        "lif_box_feed_forward_step(subtract)": box(reset_subtract),
        "lif_feed_forward_step": of_norse(
            lif.lif_feed_forward_step,
            lambda x: lif.LIFFeedForwardState(v=x.new_zeros(NEURONS), i=x.new_zeros(NEURONS)),
            lif.LIFParameters(tau_mem_inv=torch.as_tensor(300.0), method="heaviside"),
        ),
        "heaviside": lambda x: (heaviside(currents(x)) * by_time[:, None]).sum(),
        "logical_and": lambda x: (
            logical.logical_and(heaviside(currents(x)[:5]), heaviside(currents(x)[5:])).double().sum()
        ),
        "logical_xor": lambda x: (
            logical.logical_xor(heaviside(currents(x)[:5]), heaviside(currents(x)[5:])).double().sum()
        ),
        "muller_c": lambda x: (
            logical.muller_c(heaviside(currents(x)[0]), heaviside(currents(x)[1]), heaviside(currents(x)[2]))
            .double()
            .sum()
        ),
        "spike_latency_encode": lambda x: (
            encode.spike_latency_encode(heaviside(currents(x))) * by_time[:, None]
        ).sum(),
    },
    eps=0.01,
)
