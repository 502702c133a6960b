"""Spiking layers as users write them, and paths whose ends lie outside all bands."""

from __future__ import annotations

import torch

THRESHOLD = 1.0


def _currents(x, steps, neurons, seed):
    g = torch.Generator().manual_seed(seed)
    w = torch.randn(neurons, steps, x.shape[-1], generator=g, dtype=x.dtype)
    return torch.einsum("jti,ni->tnj", w, x)


def leaky_integrate_and_fire(reset="subtract", steps=20, neurons=3, beta=0.9, seed=0):
    """A hand-written layer with the reset in the graph: (n, inputs) -> number of spikes (n,)."""

    def layer(x, margin=None):
        current = _currents(x, steps, neurons, seed)
        membrane = torch.zeros_like(current[0])
        count = 0.0
        for t in range(steps):
            membrane = beta * membrane + current[t]
            if margin is not None:
                margin.append((membrane - THRESHOLD).abs().min())
            spike = (membrane > THRESHOLD).to(membrane.dtype)
            membrane = membrane - spike * THRESHOLD if reset == "subtract" else membrane * (1 - spike)
            count = count + spike.sum(-1)
        return count

    return layer


def snntorch_leaky(steps=20, neurons=3, seed=0):
    """snnTorch's own neuron with a hard comparison for its surrogate gradient."""
    import snntorch

    def layer(x, margin=None):
        neuron = snntorch.Leaky(beta=0.9, spike_grad=lambda u: (u > 0).float(), reset_mechanism="none")
        current = _currents(x, steps, neurons, seed)
        membrane = torch.zeros_like(current[0])
        count = 0.0
        for t in range(steps):
            spike, membrane = neuron(current[t], membrane)
            if margin is not None:
                margin.append((membrane - THRESHOLD).abs().min())
            count = count + spike.sum(-1)
        return count

    return layer


def random_path(layer, seed, eps, inputs=6):
    """Two random inputs at which no membrane is within 2 eps of the threshold at any step, and the spike counts
    differ.
    """
    g = torch.Generator().manual_seed(seed)

    def point():
        while True:
            x = torch.randn(inputs, generator=g, dtype=torch.float64) * 0.5
            margin = []
            layer(x[None], margin)
            if min(margin) > 2 * eps:
                return x

    a = point()
    while True:
        b = point()
        if abs(float((layer(b[None]) - layer(a[None])).sum())) >= 5:
            return a, b
