"""The public calls."""

import sys
from typing import Any

from . import _library
from ._features import gather, pack_dropout
from ._fp8 import Fp8Room, Narrow
from ._framework import FRAMEWORKS, Framework, no_tensor


def _framework(tensor: object, name: str = "q") -> Framework:
    """The framework of a tensor. One that the user has not imported stays so."""
    modules = {base.__module__.partition(".")[0] for base in type(tensor).__mro__} & set(sys.modules)
    framework: Framework
    if "torch" in modules:
        from ._torch import TORCH

        framework = TORCH
    elif "numpy" in modules:
        from ._numpy import NumPy

        framework = NumPy()
    elif "cupy" in modules:
        from ._cupy import CuPy

        framework = CuPy()
    elif modules & {"jax", "jaxlib"}:
        from ._jax import Jax

        framework = Jax()
    else:
        raise no_tensor(tensor, name)
    FRAMEWORKS[type(tensor)] = framework
    return framework


def attention(
    q: Any,
    k: Any,
    v: Any,
    *,
    causal: bool = False,
    scale: float | None = None,
    return_lse: bool = False,
    out: Any = None,
    window: tuple[int | None, int | None] = (None, None),
    align: str = "bottom-right",
    chunk: int | None = None,
    softcap: float | None = None,
    sinks: Any = None,
    prefix: Any = None,
    cu_seqlens_q: Any = None,
    cu_seqlens_kv: Any = None,
    seqused_q: Any = None,
    seqused_kv: Any = None,
    alibi_slopes: Any = None,
    bias: Any = None,
    dropout_p: float = 0.0,
    dropout_seed: int = 0,
    dropout_offset: int = 0,
    key_ranges: Any = None,
    block_mask: Any = None,
    approximate_softcap: bool = False,
) -> Any:
    """Computes ``softmax(scale * q @ k.T) @ v`` for every head.

    Tensors are PyTorch's, JAX's, CuPy's or NumPy's, all of one framework, in f16 or bf16 (NumPy:
    ``ml_dtypes.bfloat16``).

    Args:
        q: Queries, (batch, seqlen_q, heads_q, head_dim), or, with ``cu_seqlens_q``, (total_q, heads_q, head_dim);
            head_dim is a multiple of 8 up to 512, also that of v: 256 with ``softcap``, ``alibi_slopes``, ``bias``,
            ``dropout_p``, ``key_ranges`` or ``block_mask``.
        k: Keys, (batch, seqlen_kv, heads_kv, head_dim), or, with ``cu_seqlens_kv``, (total_kv, heads_kv, head_dim);
            heads_q is a multiple of heads_kv.
        v: Values, of the shape of k.
        causal: A query sees only the keys up to the one it stands at.
        scale: What scores are multiplied with; 1 / sqrt(head_dim) if not given.
        return_lse: Also return the log-sum-exp of each row of scaled scores.
        out: Where to write the result, of the shape and type of q; its memory overlaps none of the others'. JAX's
            arrays cannot be written to.
        window: How many keys a query sees before the one it stands at, d, and after it: ``d - window[0] <= j <= d +
            window[1]``. None is all.
        align: Query i stands at key d = i + seqlen_kv - seqlen_q ("bottom-right"), or i ("top-left").
        chunk: A query sees only keys of the chunk of so many keys that it stands in: ``j // chunk == d // chunk``.
        softcap: Scaled scores x become ``softcap * tanh(x / softcap)``.
        sinks: A logit for each query head, f32 (heads_q,): ``exp(sinks[h])`` joins the sum of the exponentials of the
            scores, also in the log-sum-exp.
        prefix: The first ``prefix[b]`` keys of sequence b are seen by all its queries, whatever else they see: i32
            (sequences,). It goes with no window to the left and no chunks.
        cu_seqlens_q: Sequences lie one behind the other in q: where each begins, and at last where the last one ends,
            i32 (sequences + 1,).
        cu_seqlens_kv: The same for k and v.
        seqused_q: How many queries of each sequence count, i32 (sequences,).
        seqused_kv: How many keys of each sequence count, i32 (sequences,).
        alibi_slopes: ``-alibi_slopes[h] * abs(i + seqlen_kv - seqlen_q - j)`` is added to the score of query i and key
            j in query head h: f32 (heads_q,), or (sequences, heads_q), contiguous.
        bias: ``bias[b, h, i, j]`` is added to the score of query i and key j, in the element type of q: (batch,
            heads_q, seqlen_q, seqlen_kv), of which the first three may be 1, or broadcast by strides of 0. -inf hides
            a key. It goes with sequences that are not packed.
        dropout_p: Each weight is left out with this probability; those that are kept count 1 / keep times, where keep
            = 1 - dropout_p is rounded to a multiple of 1/256, of which it is at least one. The log-sum-exp is that of
            all weights. :func:`dropout_mask` tells which weights are kept.
        dropout_seed: Seed of the random numbers, of 64 bits. Whether a weight is kept is a function of seed, offset,
            sequence, number of query heads, head, query and key, and of nothing else. Each replay of a recorded CUDA
            graph leaves out the same weights.
        dropout_offset: Tells random numbers of one seed apart, say those of a step or of a layer; below 2**32.
        key_ranges: A query sees only keys of its own range, the first one and the one behind the last: i32, contiguous
            (batch, heads_q, seqlen_q, 2), or, with ``cu_seqlens_q``, (heads_q, total_q, 2), counting keys from the
            start of the sequence. Sizes of sequences and heads may be 1, for all. A pair of tensors of such shapes
            without the 2 is stacked. Ranges may be empty; what lies beyond the keys is ignored.
        block_mask: Query i sees only keys j of blocks ``(i // 128, j // 128)`` that are listed; no others are visited.
            A pair (kv_num_blocks, kv_indices), i32, contiguous: for each block of queries how many blocks of keys it
            sees, (batch, heads_q, blocks of queries), and which, in any order, (batch, heads_q, blocks of queries,
            room). Sizes of sequences and heads may be 1, for all. :func:`block_lists` makes it of a bitmap. Or the four
            lists of a ``BlockMask`` of PyTorch's FlexAttention with blocks of 128, whose ``full_`` ones are joined to
            the others: what its ``mask_mod`` hides within a block, other arguments have to hide.
        approximate_softcap: The GPU's own hyperbolic tangent will do for ``softcap``, as in FlashAttention-2 and -3:
            quicker, but a capped score is off by up to 2**-11 of itself. Where there is no kernel for it (other columns
            than 64, 128 and 256; slopes, bias or dropout beside it), scores are as exact as without.

    Masks compose: a query sees the keys that all of them show. Slopes and bias are added to scaled and capped scores.
    Key ranges and block masks go with no softcap, slopes, bias or dropout.
    These arrays lie where q does, and only the device reads them; numbers that lead out of a tensor are taken for its
    last row.

    Returns:
        The output, in the shape and type of q: ``out``, or a new tensor whose dimensions lie in memory in the order of
        q's. Rows that see no key are 0; rows that ``cu_seqlens_q`` or ``seqused_q`` leave out are not written. With
        ``return_lse``, a pair of it and the log-sum-exp: natural logarithm, f32, contiguous (batch, heads_q, seqlen_q),
        or (heads_q, total_q), -inf for rows that see no key, the sink's logit if there is one.

    Strides may be any multiples of 8 elements, with the elements of a head side by side: views of packed QKV, and
    (batch, heads, seqlen, head_dim) seen through a transpose, are computed in place. Nothing is copied, but for pairs
    of key ranges, which are stacked, and four lists of blocks, which are joined to two. Of a bias, the numbers of
    neighbouring keys lie side by side, the other strides are even, and each row of an odd number of keys has room for
    one number more: ``torch.nn.functional.pad(bias, (0, 1))[..., :-1]`` does.

    On a GPU the work is submitted to the current stream of PyTorch or CuPy, and the call returns, most often before it
    is done. JAX has no current stream: the default stream waits for the inputs, and the call for the result. Tensors in
    CPU memory are computed by the emulator, with an :class:`EmulatedWarning`.

    Raises:
        ArgumentError: A shape, stride, address or option that cannot be computed with. Also a ValueError.
        ArgumentTypeError: An element type other than f16 and bf16, or tensors of different kinds. Also a TypeError.
        UnsupportedError: What flashcore does not have yet, such as tracing by JAX. Also a NotImplementedError.
        DeviceError: No Hopper GPU, or what the driver refused. Also a RuntimeError.

    >>> import numpy, flashcore
    >>> q = numpy.ones((1, 100, 2, 64), numpy.float16)
    >>> flashcore.attention(q, q, q, causal=True)[0, 99, 1, :4]
    array([1., 1., 1., 1.], dtype=float16)
    """
    framework = FRAMEWORKS.get(type(q)) or _framework(q)
    features = gather(
        framework,
        window,
        align,
        chunk,
        softcap,
        sinks,
        prefix,
        cu_seqlens_q,
        cu_seqlens_kv,
        seqused_q,
        seqused_kv,
        alibi_slopes,
        bias,
        dropout_p,
        dropout_seed,
        dropout_offset,
        key_ranges,
        block_mask,
        approximate_softcap,
    )
    return framework.attention(q, k, v, causal, scale, features, return_lse, out)


def attention_fp8(
    q: Any,
    k: Any,
    v: Any,
    *,
    format: str = "e4m3",
    rotated: bool = False,
    per_tensor: bool = False,
    rounding_seed: int | None = None,
    rounding_offset: int = 0,
    room: Fp8Room | None = None,
    causal: bool = False,
    scale: float | None = None,
    return_lse: bool = False,
    out: Any = None,
    window: tuple[int | None, int | None] = (None, None),
    align: str = "bottom-right",
    chunk: int | None = None,
    softcap: float | None = None,
    sinks: Any = None,
    prefix: Any = None,
    cu_seqlens_q: Any = None,
    cu_seqlens_kv: Any = None,
    seqused_q: Any = None,
    seqused_kv: Any = None,
    alibi_slopes: Any = None,
    bias: Any = None,
    dropout_p: float = 0.0,
    dropout_seed: int = 0,
    dropout_offset: int = 0,
    key_ranges: Any = None,
    block_mask: Any = None,
    approximate_softcap: bool = False,
) -> Any:
    """:func:`attention` by way of 8 bits: q, k and v are rounded, on the device, and tensor cores multiply twice as
    fast.

    Args:
        q: Queries in f16 or bf16, as of :func:`attention`, but for head_dim, which is up to 256.
        k: Keys.
        v: Values.
        format: What numbers are rounded to: "e4m3", of 4 significant bits, or "e5m2", of 3. Each is divided by the
            descale of its head before, a power of 2 with which the head's largest number just fits; kernels multiply
            with it again.
        rotated: q and k are rotated before (signs and a Hadamard matrix over their columns), which spreads columns that
            are much larger than others. Scores are what they were.
        per_tensor: One descale for all heads of q, of k and of v.
        rounding_seed: Each number becomes one of its two neighbours in the format by chance, such that it is right on
            average: by the random numbers of this seed, below 2**64. Not given, it becomes the nearest.
        rounding_offset: Other random numbers of the same seed, below 2**32: say, those of a step or of a layer.
        room: Where q, k and v of 8 bits lie: what :func:`fp8_room` made for tensors of these shapes, which also says
            how they are rounded. Not given, it is memory that this library keeps for the stream, of the eight
            combinations of stream, shapes and rounding that were used last: about half as many bytes as q, k and v
            have. A call that a CUDA graph records needs a room that lives as long as the graph.

    All others are those of :func:`attention`, and so is what is returned and raised. The output is off by some percent
    of its root mean square. ``out`` may be q.

    Raises:
        UnsupportedError: What there is no kernel of 8 bits for, such as biases and dropout; of e5m2 also windows,
            chunks, prefixes, ``softcap``, ``sinks``, packed sequences and numbers of rows that count.

    >>> import numpy, flashcore
    >>> q, k, v = (numpy.random.randn(1, 100, 2, 64).astype(numpy.float16) for _ in "qkv")
    >>> out = flashcore.attention_fp8(q, k, v, causal=True, rotated=True)
    >>> bool(abs(out - flashcore.attention(q, k, v, causal=True)).mean() < 0.05)
    True
    """
    framework = FRAMEWORKS.get(type(q)) or _framework(q)
    features = gather(
        framework,
        window,
        align,
        chunk,
        softcap,
        sinks,
        prefix,
        cu_seqlens_q,
        cu_seqlens_kv,
        seqused_q,
        seqused_kv,
        alibi_slopes,
        bias,
        dropout_p,
        dropout_seed,
        dropout_offset,
        key_ranges,
        block_mask,
        approximate_softcap,
    )
    narrow = Narrow(format, rotated, per_tensor, rounding_seed, rounding_offset)
    return framework.attention_fp8(q, k, v, causal, scale, features, return_lse, out, narrow, room)


def fp8_room(
    q: Any,
    k: Any,
    v: Any,
    *,
    format: str = "e4m3",
    rotated: bool = False,
    per_tensor: bool = False,
    num_sequences_q: int = 0,
    num_sequences_kv: int = 0,
) -> Fp8Room:
    """Room for q, k and v of 8 bits, which :func:`attention_fp8` takes as ``room``: for CUDA graphs, and for who wants
    to know how much memory is used, and when.

    Only kind, device and shapes of the tensors are looked at; the other arguments are those of :func:`attention_fp8`,
    and how many packed sequences q has, and k and v, 0 where the call has no ``cu_seqlens_q`` or ``cu_seqlens_kv``. A
    room is used by one call at a time: calls are on one stream, or each waits for the one before it. It is freed, after
    all work of the device, when nobody refers to it, and has to live as long as graphs that recorded calls in it.

    Raises:
        ArgumentError, ArgumentTypeError, DeviceError: As :func:`attention`.

    >>> import numpy, flashcore
    >>> q = numpy.ones((1, 100, 2, 64), numpy.float16)
    >>> room = flashcore.fp8_room(q, q, q)
    >>> flashcore.attention_fp8(q, q, q, room=room)[0, 99, 1, :4]
    array([1., 1., 1., 1.], dtype=float16)
    """
    framework = FRAMEWORKS.get(type(q)) or _framework(q)
    sequences = (num_sequences_q, num_sequences_kv)
    return framework.fp8_room(q, k, v, Narrow(format, rotated, per_tensor), sequences)


def merge_attention_states(o1: Any, lse1: Any, o2: Any, lse2: Any, *, out: Any = None, lse: Any = None) -> Any:
    """Merges two attention states, the outputs and log-sum-exps of two calls with the same queries and disjoint sets of
    keys: the result is the state of one call over all of these keys.

        lse = ln(exp lse1 + exp lse2)        out = exp(lse1 - lse) o1 + exp(lse2 - lse) o2

    For prompts worked on in chunks, keys spread over devices (ring attention) and prefixes that many sequences share
    (cascade inference). Tensors are those of :func:`attention`.

    Args:
        o1: Output of one call, (batch, seqlen, heads, head_dim); head_dim is a multiple of 8 up to 512.
        lse1: Its log-sum-exp: f32, contiguous (batch, heads, seqlen), as ``return_lse`` gives it.
        o2: Output of the other call, of the shape and type of o1.
        lse2: Its log-sum-exp.
        out: Where to write the merged output. It may be o1 or o2; any other overlap is an error.
        lse: Where to write the merged log-sum-exp. It may be lse1 or lse2.

    Returns:
        The pair of output and log-sum-exp: what was given, or new tensors.

    A state whose log-sum-exp is -inf weighs nothing, whatever its output holds; if both are, the row is zeros, and its
    log-sum-exp -inf. A log-sum-exp of NaN or +inf makes its row NaN.

    Raises:
        ArgumentError, ArgumentTypeError, UnsupportedError, DeviceError: As :func:`attention`.

    >>> import numpy, flashcore
    >>> q, k, v = (numpy.random.randn(1, 100, 2, 64).astype(numpy.float16) for _ in "qkv")
    >>> o1, lse1 = flashcore.attention(q, k[:, :30], v[:, :30], return_lse=True)
    >>> o2, lse2 = flashcore.attention(q, k[:, 30:], v[:, 30:], return_lse=True)
    >>> out, lse = flashcore.merge_attention_states(o1, lse1, o2, lse2)
    >>> numpy.allclose(out, flashcore.attention(q, k, v), atol=2e-3)
    True
    """
    framework = FRAMEWORKS.get(type(o1)) or _framework(o1, "o1")
    return framework.merge(o1, lse1, o2, lse2, out, lse)


def dropout_mask(mask: Any, p: float, *, seed: int = 0, offset: int = 0) -> Any:
    """Writes which weights :func:`attention` keeps with ``dropout_p=p``, this seed and this offset. For checks, and for
    who computes attention, or its gradients, in other ways.

    Args:
        mask: Where to write, contiguous (batch, heads_q, seqlen_q, seqlen_kv), uint8 or bool: 1 for a weight that is
            kept, 0 for one that is left out. Of packed sequences, batch are all sequences, and the sizes those of the
            longest.
        p: The probability with which a weight is left out.
        seed: The seed.
        offset: The offset.

    Returns:
        ``mask``.

    Raises:
        ArgumentError, ArgumentTypeError, DeviceError: As :func:`attention`.

    >>> import numpy, flashcore
    >>> mask = flashcore.dropout_mask(numpy.empty((1, 2, 100, 100), bool), 0.5, seed=7)
    >>> round(float(mask.mean()), 1)
    0.5
    """
    framework = FRAMEWORKS.get(type(mask)) or _framework(mask, "mask")
    return framework.dropout_mask(mask, pack_dropout(p, seed, offset))


def block_lists(visible: Any) -> tuple[Any, Any]:
    """The lists of a block mask for a bitmap, as ``block_mask`` of :func:`attention` takes them.

    Args:
        visible: Which blocks of 128 queries and 128 keys are visible at all, bool (batch, heads_q, blocks of queries,
            blocks of keys); the first two may be 1, for all.

    Returns:
        How many blocks of keys each block of queries sees, i32 (batch, heads_q, blocks of queries), and the numbers of
        these in rising order, followed by those of the others, i32 of the shape of ``visible``: ``kv_num_blocks`` and
        ``kv_indices`` of PyTorch's FlexAttention.

    Raises:
        ArgumentError, ArgumentTypeError: As :func:`attention`.

    >>> import numpy, flashcore
    >>> flashcore.block_lists(numpy.array([[[[True, False, True], [False, False, True]]]]))
    (array([[[2, 1]]], dtype=int32), array([[[[0, 2, 1],
             [2, 0, 1]]]], dtype=int32))
    """
    framework = FRAMEWORKS.get(type(visible)) or _framework(visible, "visible")
    return framework.block_lists(visible)


def plan(
    q: Any,
    k: Any,
    v: Any,
    *,
    causal: bool = False,
    scale: float | None = None,
    out: Any = None,
    window: tuple[int | None, int | None] = (None, None),
    align: str = "bottom-right",
    chunk: int | None = None,
    softcap: float | None = None,
    sinks: Any = None,
    prefix: Any = None,
    cu_seqlens_q: Any = None,
    cu_seqlens_kv: Any = None,
    seqused_q: Any = None,
    seqused_kv: Any = None,
    alibi_slopes: Any = None,
    bias: Any = None,
    dropout_p: float = 0.0,
    dropout_seed: int = 0,
    dropout_offset: int = 0,
    key_ranges: Any = None,
    block_mask: Any = None,
    approximate_softcap: bool = False,
) -> str:
    """How :func:`attention` would compute this: kernel, tiles, grid, estimated time. For people: the text changes.

    Arguments are those of :func:`attention`, and what it refuses is refused, but for addresses. For tensors in CPU
    memory it is the plan for an H200. Nothing is computed.
    """
    framework = FRAMEWORKS.get(type(q)) or _framework(q)
    features = gather(
        framework,
        window,
        align,
        chunk,
        softcap,
        sinks,
        prefix,
        cu_seqlens_q,
        cu_seqlens_kv,
        seqused_q,
        seqused_kv,
        alibi_slopes,
        bias,
        dropout_p,
        dropout_seed,
        dropout_offset,
        key_ranges,
        block_mask,
        approximate_softcap,
    )
    return framework.plan(q, k, v, causal, scale, features, out)


def preload(ordinal: int = 0) -> None:
    """Loads every kernel on a CUDA device now; otherwise the first call that needs one does, which takes longer then.

    Raises:
        DeviceError: There is no such device, or it is no Hopper GPU.
    """
    _library.cuda(ordinal).preload()
