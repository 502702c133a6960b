"""What a region deliberately does not linearize, each with the reason, and what it does not call a loss."""

from __future__ import annotations

import torch

from .registry import LEFT_ALONE, NO_GRADIENT_TO_LOSE, RULES, spellings


def left_alone(reason: str, names: str) -> None:
    for name in names.split():
        LEFT_ALONE[name] = reason


left_alone(
    "sorted, extreme and interpolated values are continuous: torch's own gradient is right",
    "msort amax amin aminmax quantile nanquantile max_pool1d max_pool2d max_pool3d adaptive_max_pool1d "
    "adaptive_max_pool2d adaptive_max_pool3d fractional_max_pool2d fractional_max_pool3d",
)
left_alone(
    "the values are continuous and keep torch's gradient; the indices, which element it was, are not linearized",
    """cummax cummin max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices
    adaptive_max_pool1d_with_indices adaptive_max_pool2d_with_indices adaptive_max_pool3d_with_indices mode""",
)
left_alone(
    "positions and numbers of elements: the shape of the result depends on the decision",
    "nonzero nonzero_static argwhere unique_consecutive",
)
left_alone("histc is linearized; this one returns bin edges as well", "histogram histogramdd")
left_alone("equality of floats with a set of floats has no boundary that a window average sees", "isin")
left_alone(
    "equality of floats has no boundary that a window average sees", "eq ne __eq__ __ne__ not_equal equal allclose"
)
left_alone(
    "asks whether a value is special: no window average", "isnan isinf isfinite isposinf isneginf isreal logical_not"
)
left_alone(
    "random: the draw is not a function of its probability",
    """bernoulli multinomial poisson binomial normal rand_like randn_like randint_like dropout dropout1d dropout2d
    dropout3d alpha_dropout feature_dropout gumbel_softmax rrelu exponential geometric cauchy log_normal random
    uniform""",
)
left_alone(
    "has a surrogate gradient of its own",
    "fake_quantize_per_tensor_affine fake_quantize_per_channel_affine fused_moving_avg_obs_fake_quant",
)
left_alone(
    "takes the bits of a float apart",
    "frexp nextafter ldexp view float_power bitwise_left_shift bitwise_right_shift",
)
left_alone(
    "quantized tensors: their integers are storage, not a decision",
    "quantize_per_tensor quantize_per_channel int_repr dequantize",
)

_NUMBER = (
    "Python and NumPy numbers have no derivative. Compute with the tensor itself, or read the number after backward or "
    "under torch.no_grad()."
)
REMEDIES = {
    "bool": "Python's if, while and bool() see the hard value only. Use torch.where(condition, a, b).",
    **dict.fromkeys(("item", "tolist", "numpy", "array", "int", "float", "index", "complex"), _NUMBER),
}
"""Op name -> what to do instead, said in `LostGradientWarning`."""

# Asking for metadata, printing, overwriting, and cutting the graph on purpose.
_QUIET = """
    _is_view
    size dim ndimension numel nelement stride storage_offset data_ptr element_size is_floating_point is_complex
    is_contiguous is_shared is_signed is_inference is_same_size is_set_to get_device __len__ __repr__ __format__
    __hash__ __dir__ untyped_storage storage storage_type detach detach_ requires_grad_ retain_grad register_hook
    zero_ fill_ new_zeros new_ones new_full new_empty new_tensor new_empty_strided zeros_like ones_like full_like
    empty_like rand_like randn_like result_type can_cast is_tensor is_nonzero_ resize_ set_ pin_memory is_pinned
    record_stream __setstate__ __class__ is_conj is_neg   is_coalesced names type has_names random_
    bernoulli_ uniform_ normal_ exponential_ dim_order backward share_memory_ is_distributed  manual_seed
    broadcast_shapes
"""
for _name in _QUIET.split():
    NO_GRADIENT_TO_LOSE.update(f for f in spellings(_name) if f not in RULES)
for _name, _member in vars(torch._C.TensorBase).items():  # properties: shape, dtype, device, requires_grad, grad …
    if type(_member).__name__ == "getset_descriptor" and _member.__get__ not in RULES:
        NO_GRADIENT_TO_LOSE.update({_member.__get__, _member.__set__, _member.__delete__})
for _name, _member in vars(torch.Tensor).items():
    if isinstance(_member, property):
        NO_GRADIENT_TO_LOSE.update(f for f in (_member.__get__, _member.__set__) if f not in RULES)
