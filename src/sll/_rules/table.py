"""What is known about each torch function: one row, data only.

Functions that share every fact share a row. A name stands for all spellings of it (``torch.x``, ``Tensor.x``,
``F.x``, ``torch.special.x`` …), with a namespace in front for that one alone. Carriers look rules up by the name, the
family or the op of a row; `index.py` has what can be asked.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Row(NamedTuple):
    """Functions of torch, and what is known about them."""

    names: str
    family: str
    op: str = ""
    """What makes decisions: its name in `sll.OPS`."""
    boundaries: str = ""
    """Where the decisions of the op are, in words; in its first row."""
    in_place: bool = True
    """Whether ``name_`` and ``__iname__`` are its in-place forms."""
    facts: str = ""
    """See `FACTS`."""
    left_alone: str = ""
    """Why a region does not linearize what it does to floats."""
    remedy: str = ""
    """What to write instead, where a decision ends here."""
    functions: tuple[Any, ...] = ()
    """Functions that are not torch's own: they stand for themselves."""


FAMILIES = {
    "sources": "floats in, discrete out, one boundary at a time",
    "reflected": "sources with their operands in the other order",
    "casts": "to other dtypes, integers among them",
    "choices": "which position of a row is taken",
    "extremes": "a choice, an elementwise function or a value, by their arguments",
    "orders": "which element stands at which place",
    "passed": "how many boundaries are passed",
    "best_values": "a value that a choice takes",
    "pooled": "the largest of each window",
    "elementwise": "element by element",
    "floats": "to a float dtype",
    "masks": "a mask chooses element by element",
    "moves": "elements move, none is made",
    "stacked_moves": "moves of one tensor or of several",
    "in_place_moves": "moves that change the tensor itself",
    "copies": "the same elements",
    "broadcasts": "elements repeat",
    "fills": "elements move, and constants are put beside them",
    "joins": "several tensors become one",
    "sums": "linear in one tensor, or products along a dimension",
    "products": "linear in each of several tensors",
    "truths": "all, any",
    "lookups": "a table at an index",
    "writes": "into a tensor, at an index",
    "selections": "what a mask selects, with as many elements as it does",
    "losses": "one number for two tensors",
    "defined": "functions of others: `_carry/definitions` says of which",
    "numbers": "Python and NumPy numbers: gradients end",
    "asks": "asks about a tensor, cuts the graph on purpose or overwrites it: nothing is lost there",
    "left_alone": "discrete, and run as it is",
    "others": "ordinary functions of which one fact matters",
}

FACTS = {
    "smooth": "continuous between integers, and equal to the hard function at them",
    "by_ones": "the result changes by one if the operands do",
    "same_number": "an integer result is the operand",
    "truth": "asks whether a number is 0",
    "poles": "can turn a finite operand into inf, NaN or an error",
    "divides": "does so for its second operand",
    "and": "logic",
    "or": "logic",
    "xor": "logic",
    "not": "logic",
    "eq": "equality",
    "ne": "equality",
    "in_order": "a move that keeps the elements in order",
    "keeps_rows": "a move that may keep the first dimension as it is",
    "each": "a function of selected elements is the selection of the function",
    "weighted": "the sum or mean of a selection is weighted",
    "along": "of other dimensions, a function of the rows of a selection is the selection of the function",
    "guards": "asks whether all is well, and decides nothing",
    "may_decide": "decides for some arguments only",
    "marks": "the rule is asked also if no operand carries anything",
    "writes": "writes to what it is given, or hands out its memory",
}

_BITS = "takes the bits of a float apart"
_TURN = "the jump from pi to -pi is one of the writing: the angle is the same"
_EQUAL = "equality of floats has no boundary that a window average sees"
_SPECIAL = "asks whether a value is special: no window average"
_POSITIONS = "positions and numbers of elements: the shape of the result depends on the decision"
_CONTINUOUS = "sorted, extreme and interpolated values are continuous: torch's own gradient is right"
_MULTIPLES = "multiples of the divisor, in the dividend's units"
_BEST = "the best entry leads the next by 0"
_NEIGHBOURS = "neighbours in sorted order change places"
_RANDOM = "random: the draw is not a function of its probability"
_NUMBER = (
    "Python and NumPy numbers have no derivative. Compute with the tensor itself, or read the number after backward or "
    "under torch.no_grad()."
)

ROWS: list[Row] = [
    # sources
    Row("gt greater __gt__", "sources", op="gt", boundaries="`input == other`", facts="each"),
    Row("ge greater_equal __ge__", "sources", op="ge", boundaries="`input == other`", facts="each"),
    Row("lt less __lt__", "sources", op="lt", boundaries="`input == other`", facts="each"),
    Row("le less_equal __le__", "sources", op="le", boundaries="`input == other`", facts="each"),
    Row("isclose", "sources", op="isclose", boundaries="`|input - other| == atol + rtol * |other|`"),
    Row("signbit", "sources", op="signbit", boundaries="`0`"),
    Row("sign sgn", "sources", op="sign", boundaries="`0`", facts="each"),
    Row("angle", "sources", op="angle", boundaries="`0`"),
    Row("heaviside", "sources", op="heaviside", boundaries="`0`"),
    Row("copysign", "sources", op="copysign", boundaries="`other == 0`"),
    Row("hardshrink", "sources", op="hardshrink", boundaries="`|input| == lambd`"),
    Row("threshold", "sources", op="threshold", boundaries="`input == threshold`"),
    Row("round", "sources", op="round", boundaries="`n + 1/2`, with `decimals=k` `(n + 1/2) * 10**-k`", facts="each"),
    Row("floor", "sources", op="floor", boundaries="integers", facts="each"),
    Row("ceil", "sources", op="ceil", boundaries="integers", facts="each"),
    Row("trunc fix", "sources", op="trunc", boundaries="integers but 0", facts="each"),
    Row("frac", "sources", op="frac", boundaries="integers but 0"),
    Row("floor_divide __floordiv__", "sources", op="floor_divide", boundaries=_MULTIPLES, facts="divides"),
    Row(
        "div divide __div__",
        "sources",
        op="div",
        boundaries="with `rounding_mode=`: multiples of the divisor",
        facts="smooth divides may_decide each",
    ),
    Row("remainder __mod__", "sources", op="remainder", boundaries=_MULTIPLES, facts="divides"),
    Row(
        "fmod",
        "sources",
        op="fmod",
        boundaries="multiples of the divisor but 0, in the dividend's units",
        facts="divides",
    ),
    # reflected
    Row("__rfloordiv__", "reflected", op="floor_divide", in_place=False),
    Row("__rmod__", "reflected", op="remainder", in_place=False),
    # casts
    Row(
        "long int short char byte",
        "casts",
        op="cast",
        boundaries="integers but 0 (`.long()`, `.int()`, `.to(torch.int8)` …)",
        in_place=False,
        facts="same_number each",
    ),
    Row("to type type_as", "casts", op="cast", in_place=False, facts="smooth by_ones same_number may_decide each"),
    # choices
    Row("argmax", "choices", op="argmax", boundaries=_BEST, in_place=False, facts="along"),
    Row("argmin", "choices", op="argmin", boundaries=_BEST, in_place=False, facts="along"),
    # extremes
    Row("max", "extremes", op="argmax", in_place=False, facts="may_decide along"),
    Row("min", "extremes", op="argmin", in_place=False, facts="may_decide along"),
    # orders
    Row("sort argsort", "orders", op="sort", boundaries=_NEIGHBOURS, in_place=False),
    Row("topk", "orders", op="topk", boundaries=_NEIGHBOURS, in_place=False),
    Row(
        "kthvalue",
        "orders",
        op="kthvalue",
        boundaries="the k-th smallest changes places with a neighbour",
        in_place=False,
    ),
    Row(
        "median nanmedian",
        "orders",
        op="median",
        boundaries="the median changes places with a neighbour",
        in_place=False,
        facts="may_decide",
    ),
    Row(
        "unique",
        "orders",
        op="unique",
        boundaries="with `return_inverse`: neighbours in sorted order change places",
        in_place=False,
    ),
    # passed
    Row(
        "searchsorted",
        "passed",
        op="searchsorted",
        boundaries="each boundary, half-width at most half the distance to the next",
        in_place=False,
    ),
    Row("bucketize", "passed", op="searchsorted", in_place=False),
    Row("histc", "passed", op="histc", boundaries="the edges of the bins", in_place=False),
    # best values
    Row("amax amin", "best_values", in_place=False, facts="marks along", left_alone=_CONTINUOUS),
    # elementwise
    Row(
        "add __add__ __radd__ sub subtract __sub__ __rsub__ rsub neg negative __neg__ positive __pos__ abs absolute "
        "__abs__ maximum minimum fmax fmin clamp clip clamp_min clamp_max",
        "elementwise",
        facts="smooth by_ones each",
    ),
    Row(
        "mul multiply __mul__ __rmul__ square exp expm1 exp2 sin cos tanh sigmoid hypot logaddexp lerp "
        "addcmul addcdiv nan_to_num relu",
        "elementwise",
        facts="smooth each",
    ),
    Row("atan2", "elementwise", facts="smooth each", left_alone=_TURN),
    Row("arctan2", "elementwise", facts="each", left_alone=_TURN),
    Row("true_divide", "elementwise", facts="smooth divides may_decide each"),
    Row("__truediv__", "elementwise", facts="smooth divides each"),
    Row(
        "__rtruediv__ __rdiv__ pow __pow__ __rpow__ sqrt rsqrt reciprocal log log1p log2 log10 xlogy",
        "elementwise",
        facts="smooth poles each",
    ),
    Row(
        "atan arctan sinh cosh asinh arcsinh sinc erf erfc expit logaddexp2 deg2rad rad2deg i0 "
        "softplus relu6 hardtanh leaky_relu elu selu celu gelu silu mish hardswish hardsigmoid logsigmoid "
        "softsign tanhshrink softshrink gcd lcm ndtr entr __lshift__ __rshift__ __rlshift__ __rrshift__ cpu cuda",
        "elementwise",
        facts="each",
    ),
    Row("float_power", "elementwise", facts="smooth poles each", left_alone=_BITS),
    Row(
        "tan asin acos arcsin arccos acosh atanh arccosh arctanh erfinv lgamma digamma logit log_ndtr xlog1py",
        "elementwise",
        facts="poles each",
    ),
    Row("ldexp bitwise_left_shift bitwise_right_shift", "elementwise", facts="each", left_alone=_BITS),
    Row("logical_and bitwise_and __and__ __rand__", "elementwise", facts="and each"),
    Row("logical_or bitwise_or __or__ __ror__", "elementwise", facts="or each"),
    Row("logical_xor bitwise_xor __xor__ __rxor__", "elementwise", facts="xor each"),
    Row("logical_not", "elementwise", facts="not truth each", left_alone=_SPECIAL),
    Row("bitwise_not __invert__", "elementwise", facts="not each"),
    Row("eq __eq__", "elementwise", facts="eq each", left_alone=_EQUAL),
    Row("ne not_equal __ne__", "elementwise", facts="ne each", left_alone=_EQUAL),
    Row("isnan isinf isfinite isposinf isneginf isreal", "elementwise", facts="guards each", left_alone=_SPECIAL),
    Row("bool", "elementwise", facts="truth each"),
    # floats
    Row("float double half bfloat16", "floats", in_place=False, facts="smooth each"),
    # masks
    Row("where", "masks", in_place=False, facts="smooth by_ones"),
    Row("masked_fill", "masks", facts="smooth by_ones"),
    Row("masked_scatter", "masks"),
    # moves
    Row("view", "moves", in_place=False, facts="in_order keeps_rows", left_alone=_BITS),
    Row("reshape unsqueeze", "moves", in_place=False, facts="in_order keeps_rows"),
    Row("squeeze", "moves", in_place=False, facts="in_order keeps_rows each"),
    Row(
        "flatten unflatten ravel view_as reshape_as view_copy squeeze_copy unsqueeze_copy",
        "moves",
        in_place=False,
        facts="in_order",
    ),
    Row(
        "transpose t permute movedim moveaxis swapaxes swapdims repeat tile flip fliplr flipud "
        "roll rot90 narrow select diagonal chunk split split_with_sizes tensor_split hsplit vsplit dsplit unbind "
        "adjoint unsafe_chunk unsafe_split narrow_copy resolve_conj resolve_neg expand_copy permute_copy "
        "transpose_copy t_copy select_copy unbind_copy diagonal_copy channel_shuffle pixel_shuffle "
        "pixel_unshuffle __reversed__ Tensor.unfold Tensor.T Tensor.mT Tensor.H Tensor.mH Tensor.real",
        "moves",
        in_place=False,
    ),
    # stacked moves
    Row("atleast_1d atleast_2d atleast_3d", "stacked_moves", in_place=False),
    # in place moves
    Row("unsqueeze_ squeeze_ t_ transpose_ swapaxes_ swapdims_", "in_place_moves", in_place=False),
    # copies
    Row("clone contiguous", "copies", in_place=False, facts="smooth by_ones same_number each"),
    # broadcasts
    Row("expand expand_as broadcast_to", "broadcasts", in_place=False),
    # fills
    Row("tril triu pad diag diag_embed constant_pad_nd diagflat", "fills"),
    Row("F.unfold", "fills", in_place=False),
    # joins
    Row("cat concat concatenate stack hstack vstack dstack column_stack row_stack", "joins", in_place=False),
    # sums
    Row("sum", "sums", facts="by_ones weighted"),
    Row("mean", "sums", facts="weighted"),
    Row("cumsum nansum diff trace", "sums", facts="by_ones"),
    Row("cumulative_trapezoid trapezoid trapz prod cumprod", "sums"),
    # products
    Row(
        "matmul __matmul__ __rmatmul__ mm bmm mv dot vdot inner outer ger einsum tensordot kron linear addmm "
        "addmv baddbmm multi_dot chain_matmul vecdot",
        "products",
    ),
    # truths
    Row("all any", "truths", in_place=False, facts="along"),
    # lookups
    Row("Tensor.__getitem__ index_select gather one_hot", "lookups", in_place=False),
    Row("F.embedding torch.embedding", "lookups", in_place=False, facts="writes"),
    # writes
    Row("scatter scatter_add scatter_reduce index_add index_fill index_copy index_put", "writes"),
    Row("Tensor.__setitem__ Tensor.copy_", "writes", in_place=False, facts="marks writes"),
    # selections
    Row("nonzero argwhere", "selections", in_place=False, left_alone=_POSITIONS),
    # losses
    Row(
        "mse_loss l1_loss smooth_l1_loss huber_loss binary_cross_entropy binary_cross_entropy_with_logits "
        "cross_entropy nll_loss",
        "losses",
        in_place=False,
    ),
    # defined
    Row(
        "fake_quantize_per_tensor_affine fake_quantize_per_channel_affine _fake_quantize_learnable_per_tensor_affine "
        "_fake_quantize_learnable_per_channel_affine quantize_per_tensor quantize_per_channel cummax cummin "
        "max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices adaptive_max_pool1d_with_indices "
        "adaptive_max_pool2d_with_indices adaptive_max_pool3d_with_indices torch.adaptive_max_pool1d mode histogram "
        "histogramdd frexp grid_sample",
        "defined",
        in_place=False,
        facts="marks",
    ),
    Row(
        "isin scaled_dot_product_attention bincount repeat_interleave max_unpool1d max_unpool2d max_unpool3d meshgrid "
        "cartesian_prod combinations block_diag fill_diagonal_ dequantize int_repr to_dense tensor new_tensor",
        "defined",
        in_place=False,
    ),
    Row("as_tensor asarray", "defined", in_place=False, facts="each"),
    Row("broadcast_tensors count_nonzero masked_select take take_along_dim unravel_index", "defined", in_place=False),
    Row("put", "defined"),
    Row(
        "sparse_coo_tensor",
        "defined",
        in_place=False,
        remedy="its places are followed one by one, and these are too many. Take a smaller tensor, or sums of "
        "one-hots.",
    ),
    Row("unique_consecutive", "defined", in_place=False, left_alone=_POSITIONS),
    Row("embedding_bag", "defined", in_place=False, facts="writes"),
    Row("fused_moving_avg_obs_fake_quant", "defined", in_place=False, facts="marks writes"),
    # left alone
    Row("equal allclose", "left_alone", in_place=False, facts="guards", left_alone=_EQUAL),
    Row("msort aminmax quantile nanquantile", "left_alone", in_place=False, left_alone=_CONTINUOUS),
    Row(
        "max_pool1d max_pool2d max_pool3d F.adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d "
        "fractional_max_pool2d fractional_max_pool3d",
        "pooled",
        in_place=False,
        left_alone=_CONTINUOUS,
    ),
    Row("nonzero_static", "left_alone", in_place=False, left_alone=_POSITIONS),
    Row(
        "bernoulli multinomial poisson binomial normal randint_like dropout dropout1d dropout2d dropout3d "
        "alpha_dropout feature_dropout gumbel_softmax rrelu exponential geometric cauchy log_normal random "
        "uniform",
        "left_alone",
        in_place=False,
        left_alone=_RANDOM,
    ),
    Row("nextafter", "left_alone", in_place=False, left_alone=_BITS),
    # asks
    Row(
        "_is_view size dim ndimension numel nelement stride storage_offset element_size is_floating_point "
        "is_complex is_contiguous is_shared is_signed is_inference is_same_size is_set_to get_device __len__ "
        "__repr__ __format__ __hash__ __dir__ storage_type detach detach_ requires_grad_ retain_grad "
        "register_hook zero_ fill_ new_zeros new_ones new_full new_empty new_empty_strided zeros_like "
        "ones_like full_like empty_like result_type can_cast is_tensor is_nonzero_ resize_ set_ pin_memory "
        "is_pinned record_stream __setstate__ __class__ is_conj is_neg is_coalesced names has_names random_ "
        "bernoulli_ uniform_ normal_ exponential_ dim_order backward share_memory_ is_distributed manual_seed "
        "broadcast_shapes qscheme q_scale q_zero_point q_per_channel_scales q_per_channel_zero_points "
        "q_per_channel_axis",
        "asks",
        in_place=False,
    ),
    Row("data_ptr untyped_storage storage", "asks", in_place=False, facts="writes"),
    Row("rand_like randn_like", "asks", in_place=False, left_alone=_RANDOM),
    # numbers
    Row(
        "__bool__",
        "numbers",
        in_place=False,
        remedy="Python's if, while and bool() see the hard value only. Decorate the function with "
        "@sll.enable(..., paths=2), which runs it the other way as well, or use torch.where(condition, a, b).",
    ),
    Row(
        "item tolist __int__ __float__ __index__",
        "numbers",
        in_place=False,
        remedy="Python and NumPy numbers have no derivative. Compute with the tensor itself, or decorate the function "
        "with @sll.enable(..., paths=2), which runs it with the other number as well.",
    ),
    Row("__complex__", "numbers", in_place=False, remedy=_NUMBER),
    Row("numpy __array__", "numbers", in_place=False, facts="writes", remedy=_NUMBER),
    # others
    Row("softmax log_softmax logsumexp var std", "others", in_place=False, facts="along"),
    Row(
        "batch_norm instance_norm native_batch_norm batch_norm_update_stats cudnn_batch_norm miopen_batch_norm "
        "__iadd__ __isub__ __imul__ __idiv__ __itruediv__ __ifloordiv__ __imod__ __ipow__ __iand__ __ior__ "
        "__ixor__ __ilshift__ __irshift__ __imatmul__ __set__ __delitem__ __dlpack__",
        "others",
        in_place=False,
        facts="writes",
    ),
]
