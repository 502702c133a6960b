"""Quantizers and pruning: torchao, torch.ao, Brevitas' operators, vector-quantize-pytorch, torch.nn.utils.prune."""

from __future__ import annotations

import brevitas.function.ops as brevitas
import torch
import torch.ao.quantization as ao
import torch.nn.utils.prune as prune
import torchao.quantization.quant_primitives as torchao
import vector_quantize_pytorch as vq
from cases import add, normal, seeded
from torch import nn

N = 12
weight = torch.randn(N, generator=seeded(2), dtype=torch.float64)
SCALE, ZERO = torch.tensor([0.25]), torch.tensor([0])
BITS = -4, 3


def affine(x):
    x = x.float()
    q = torchao.quantize_affine(x, (1, N), SCALE, ZERO, torch.int8, *BITS)
    return torchao.dequantize_affine(q, (1, N), SCALE, ZERO, torch.int8, *BITS, output_dtype=x.dtype)


def scaled(x):
    """With a scale that the data choose. (Of -4 to 3 the largest element would be at 3.5, an exact tie.)"""
    x, bits = x.float(), (-3, 3)
    scale, zero = torchao.choose_qparams_affine(
        x, torchao.MappingType.SYMMETRIC, (1, N), torch.int8, *bits, scale_dtype=x.dtype
    )
    q = torchao.quantize_affine(x, (1, N), scale, zero, torch.int8, *bits)
    return torchao.dequantize_affine(q, (1, N), scale, zero, torch.int8, *bits, output_dtype=x.dtype)


add(
    "torchao",
    lambda g: normal(1, N)(g),
    {
        "quantize_affine": lambda x: (affine(x).double() * weight).sum(),
        "choose_qparams_affine": lambda x: (scaled(x).double() * weight).sum(),
        "_fake_quantize_affine": lambda x: (
            torchao._fake_quantize_affine(x.float(), (1, N), SCALE, ZERO, torch.int8, *BITS).double() * weight
        ).sum(),
        "quantize_affine's integers": lambda x: (
            torchao.quantize_affine(x.float(), (1, N), SCALE, ZERO, torch.int8, *BITS).double() * weight
        ).sum(),
    },
    see_through=True,
)
fixed = ao.FakeQuantize(ao.MinMaxObserver, quant_min=0, quant_max=15, dtype=torch.quint8).double()
fixed(torch.linspace(-1.5, 2.0, 20, dtype=torch.float64))
fixed.disable_observer()


def observed(x):
    """(The observer detaches what it sees. So the ends of its range are constants.)"""
    x = torch.cat([x.clamp(-2, 2), torch.tensor([-2.53, 2.48], dtype=x.dtype)])
    observer = ao.FakeQuantize(ao.MovingAverageMinMaxObserver, quant_min=0, quant_max=15, dtype=torch.quint8)
    return observer.double()(x)[:N]


add(
    "torch.ao",
    normal(N),
    {
        "fake_quantize_per_tensor_affine": lambda x: (
            torch.fake_quantize_per_tensor_affine(x, 0.25, 2, 0, 7) * weight
        ).sum(),
        "fake_quantize_per_tensor_affine(tensors)": lambda x: (
            torch.fake_quantize_per_tensor_affine(x, torch.tensor(0.25), torch.tensor(2, dtype=torch.int32), 0, 7)
            * weight
        ).sum(),
        "fake_quantize_per_channel_affine": lambda x: (
            torch.fake_quantize_per_channel_affine(
                x.view(2, 6).float(), torch.tensor([0.25, 0.5]), torch.tensor([2, 3], dtype=torch.int32), 0, 0, 7
            ).double()
            * weight.view(2, 6)
        ).sum(),
        "FakeQuantize": lambda x: (fixed(x) * weight).sum(),
        "FakeQuantize(observing)": lambda x: (observed(x) * weight).sum(),
        "quantize_per_tensor": lambda x: (
            torch.quantize_per_tensor(x.float(), 0.25, 2, torch.quint8).dequantize().double() * weight
        ).sum(),
    },
)
add(
    "brevitas",
    normal(N),
    {
        "binary_sign": lambda x: (brevitas.binary_sign(x) * weight).sum(),
        "round_to_zero": lambda x: (brevitas.round_to_zero(x * 2) * weight).sum(),
        "dpu_round": lambda x: (brevitas.dpu_round(x * 2) * weight).sum(),
        "tensor_clamp of rounded": lambda x: (
            brevitas.tensor_clamp(torch.round(x * 3), torch.tensor(-2.0).double(), torch.tensor(2.0).double()) * weight
        ).sum(),
    },
)

codes = torch.randn(5, 4, generator=seeded(4), dtype=torch.float64)


def quantizer(kind, **options):
    """A quantizer in evaluation: its parameters stay."""
    torch.manual_seed(0)
    return kind(**options).double().eval()


def first(module, picked=0):
    def f(x):
        return (module(x.view(1, -1, 4))[picked].double() * weight.view(1, -1, 4)).sum()

    return f


add(
    "vector-quantize-pytorch",
    normal(N),
    {
        "VectorQuantize": first(quantizer(vq.VectorQuantize, dim=4, codebook_size=6)),
        "VectorQuantize(cosine)": first(quantizer(vq.VectorQuantize, dim=4, codebook_size=6, use_cosine_sim=True)),
        "VectorQuantize's indices": lambda x: (_vq(x.view(1, -1, 4))[1].double() * weight[:3]).sum(),
        "ResidualVQ": first(quantizer(vq.ResidualVQ, dim=4, codebook_size=6, num_quantizers=2)),
        "FSQ": first(quantizer(vq.FSQ, levels=[5, 4, 3, 3])),
        "FSQ's indices": lambda x: _fsq(x.view(1, -1, 4))[1].double().sum(),
        "LFQ": first(quantizer(vq.LFQ, codebook_size=16, dim=4)),
        "LFQ's indices": lambda x: _lfq(x.view(1, -1, 4))[1].double().sum(),
        "RandomProjectionQuantizer": lambda x: _random(x.view(1, -1, 4)).double().sum(),
        "SimVQ": first(quantizer(vq.SimVQ, dim=4, codebook_size=6)),
    },
    see_through=True,
)
_vq = quantizer(vq.VectorQuantize, dim=4, codebook_size=6)
_fsq, _lfq = quantizer(vq.FSQ, levels=[5, 4, 3, 3]), quantizer(vq.LFQ, codebook_size=16, dim=4)
_random = quantizer(vq.RandomProjectionQuantizer, dim=4, codebook_size=6, codebook_dim=4, num_codebooks=1, norm=False)


def pruned(method, **options):
    """The mask that a method of pruning makes of scores."""

    def f(x):
        mask = method(**options).compute_mask(x, torch.ones_like(x))
        return (mask * weight).sum()

    return f


def on_a_module(x):
    module = nn.Linear(4, 3).double()
    prune.l1_unstructured(module, "weight", amount=4, importance_scores=x.view(3, 4))
    return (module.weight_mask * weight.view(3, 4)).sum()


add(
    "torch.nn.utils.prune",
    normal(N),
    {
        "L1Unstructured": pruned(prune.L1Unstructured, amount=4),
        "l1_unstructured on a module": on_a_module,
        "LnStructured": lambda x: (
            prune.LnStructured(amount=2, n=2, dim=0).compute_mask(x.view(4, 3), torch.ones(4, 3, dtype=x.dtype))
            * weight.view(4, 3)
        ).sum(),
    },
    see_through=True,
)
