#!/usr/bin/env python3
"""Time the attention kernels that one would use instead of flashcore, on request.

Reads one JSON object a line and answers each with one:

    {"hello": true}  -> {"impls": [...], "versions": {...}, "missing": {...}}
    a problem        -> {"us"} or {"error"}

A problem, with everything about its time:

    {"impl": "flash3", "dtype": "f16", "heads_q": 16, "heads_kv": 2, "head_dim": 128, "head_dim_v": 128,
     "lengths": {"dense": {"batch": 4, "seqlen_q": 4096, "seqlen_kv": 4096}} or {"varlen": [[queries, keys], ...]}
                or {"documents": [tokens, ...]},
     "mask": {"left": null, "right": 0, "prefix": 0, "checkerboard": false},
     "score": {"kind": "plain" | "softcap" (with "cap", "approximate") | "alibi" | "bias" (with "per_head") | "sinks"},
     "launches": 10, "settle_ms": 100, "min_replays": 20, "min_ms": 50}

The last query is level with the last key: of m queries and n keys, query i is at n - m + i. It sees the keys that are at
most `left` before and at most `right` after it (null: any), and the first `prefix` keys; on a `checkerboard` only those of
them in every second block of 128 keys, block i // 128 among these. Documents fill one sequence, in which each query has a range
of keys, those of its document. A bias is of shape (1, 1, m, n), or (batch, heads, m, n) if `per_head`.

`us` is GPU time of one call: `launches` calls in one CUDA graph, the graph replayed for `settle_ms`, then at least
`min_replays` times and for at least `min_ms`, the median over the latter replays. Before that, rows of the output are
compared with the definition of attention: what computes something else is not timed. The graphs of a problem are kept
until another one is asked for.

Implementations: PyTorch's flash (FlashAttention-2) and cuDNN back ends, through scaled_dot_product_attention where that
can say the problem; PyTorch's flex_attention, compiled, its block mask made beforehand; FlashAttention-3 where `import
flash_attn_interface` works; `matmul`, a square product through cuBLAS as large as a sequence is long.
"""
import itertools
import json
import os
import random
import sys
from functools import cached_property

# Answers go to the real standard output; whatever libraries print goes to standard error.
ANSWERS = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import AuxRequest, create_block_mask, flex_attention

MISSING = {}
try:
    import flash_attn_interface as fa3
except Exception as reason:
    fa3 = None
    MISSING["flash3"] = str(reason)

DEVICE = "cuda"
DTYPES = {"f16": torch.float16, "bf16": torch.bfloat16}
# Queries that leave most SMs idle unless keys are split among them.
FEW_QUERIES = 128
# Pairs of queries and keys whose mask may be written down, one byte each and several more while it is computed.
WRITABLE_PAIRS = 1 << 30
# Rows of the output that are compared with the definition, and by how much they may differ, relative to their norms.
SAMPLES, TOLERANCE = 48, 0.02
# Queries, and keys, of a block of a checkerboard.
BLOCK = 128


class Problem:
    """A problem on random tensors: q, k and v are (tokens, heads, head_dim), one sequence after the other."""

    def __init__(self, r):
        self.dtype = DTYPES[r["dtype"]]
        self.heads_q, self.heads_kv, self.head_dim = r["heads_q"], r["heads_kv"], r["head_dim"]
        self.documents = "documents" in r["lengths"]
        self.varlen = self.documents or "varlen" in r["lengths"]
        if self.documents:
            self.sequences = [(tokens, tokens) for tokens in r["lengths"]["documents"]]
        elif self.varlen:
            self.sequences = r["lengths"]["varlen"]
        else:
            dense = r["lengths"]["dense"]
            self.sequences = [(dense["seqlen_q"], dense["seqlen_kv"])] * dense["batch"]
        self.batch = len(self.sequences)
        self.max_q, self.max_kv = (max(lengths) for lengths in zip(*self.sequences))
        self.starts_q, self.starts_kv = ([0, *itertools.accumulate(x)] for x in zip(*self.sequences))
        self.left, self.right, self.prefix = (r["mask"][x] for x in ("left", "right", "prefix"))
        self.checkerboard = r["mask"]["checkerboard"]
        self.kind, self.score = r["score"]["kind"], r["score"]
        self.dropout = 1 - r["score"].get("keep_256", 256) / 256
        self.q = self.randn(self.starts_q[-1], self.heads_q, self.head_dim)
        self.k = self.randn(self.starts_kv[-1], self.heads_kv, self.head_dim)
        self.v = self.randn(self.starts_kv[-1], self.heads_kv, r["head_dim_v"])

    def randn(self, *shape, dtype=None):
        return torch.randn(*shape, device=DEVICE, dtype=dtype or self.dtype)

    @property
    def full(self):
        return (self.left, self.right) == (None, None)

    @property
    def causal(self):
        return (self.left, self.right) == (None, 0)

    @property
    def window(self):
        """The window as FlashAttention takes it."""
        return tuple(-1 if x is None else x for x in (self.left, self.right))

    @cached_property
    def bias(self):
        return self.randn(*((self.batch, self.heads_q) if self.score["per_head"] else (1, 1)), self.max_q, self.max_kv)

    @cached_property
    def slopes(self):
        return torch.exp2(-8 * torch.arange(1, self.heads_q + 1, device=DEVICE, dtype=torch.float32) / self.heads_q)

    @cached_property
    def sinks(self):
        return self.randn(self.heads_q, dtype=torch.bfloat16)

    @cached_property
    def cumulative(self):
        """Where sequences start, as kernels for varlen want it."""
        return tuple(torch.tensor(x, device=DEVICE, dtype=torch.int32) for x in (self.starts_q, self.starts_kv))

    def bshd(self):
        """Q, K and V as (batch, seqlen, heads, head_dim)."""
        return tuple(x.unflatten(0, (self.batch, -1)) for x in (self.q, self.k, self.v))

    def bhsd(self):
        """Copies of Q, K and V as (batch, heads, seqlen, head_dim)."""
        return tuple(x.transpose(1, 2).contiguous() for x in self.bshd())

    def refuse(self, **reasons):
        """Raises the first reason whose keyword is true of this problem."""
        is_so = {
            "window": not self.full and not self.causal,
            "prefix": self.prefix > 0,
            "checkerboard": self.checkerboard,
            "documents": self.documents,
            "top_left": self.causal and any(q != kv for q, kv in self.sequences),
            "head_dim_v": self.head_dim != self.v.shape[-1],
            self.kind: True,
        }
        for what, reason in reasons.items():
            if is_so.get(what):
                raise NotImplementedError(reason)


def on_checkerboard(i, j):
    return (i // BLOCK + j // BLOCK) % 2 == 0


def rows_of_bshd(out):
    return out.flatten(0, 1)


def rows_of_bhsd(out):
    return out.transpose(1, 2).flatten(0, 1)


def same(out):
    return out


# Each takes a problem, and returns a call and what makes rows (tokens, heads, head_dim_v) of its result.


def flash3(p):
    if fa3 is None:
        raise NotImplementedError(MISSING["flash3"])
    p.refuse(
        prefix="has no prefix mask",
        checkerboard="has no block mask",
        documents="has no ranges of keys",
        alibi="has no ALiBi",
        bias="has no additive bias",
        dropout="has no dropout",
    )
    options = {}
    if not p.full and not p.causal:
        options["window_size"] = p.window
    if p.kind == "softcap":
        options["softcap"] = p.score["cap"]
    if p.kind == "sinks":
        options["s_aux"] = p.sinks
    if p.max_q < FEW_QUERIES:
        options["num_splits"] = 0  # as many as it thinks best
    if p.varlen:
        return lambda: fa3.flash_attn_varlen_func(
            p.q, p.k, p.v, *p.cumulative, p.max_q, p.max_kv, causal=p.causal, **options), same
    q, k, v = p.bshd()
    return lambda: fa3.flash_attn_func(q, k, v, causal=p.causal, **options), rows_of_bshd


def sdpa(p, backend):
    p.refuse(
        window="PyTorch offers it no window",
        prefix="PyTorch offers it no prefix mask",
        checkerboard="PyTorch offers it no block mask",
        top_left="aligns its causal mask top-left",
        **dict.fromkeys(("softcap", "alibi", "sinks"), f"PyTorch offers it no {p.kind}"),
    )
    options = {"is_causal": p.causal, "dropout_p": p.dropout}
    if p.kind == "bias":
        if p.causal:
            raise NotImplementedError("takes a bias or a causal mask, not both")
        options = {"attn_mask": p.bias}
    if p.heads_q != p.heads_kv:
        options["enable_gqa"] = True
    q, k, v = p.bhsd()

    def forward():
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(q, k, v, **options)

    return forward, rows_of_bhsd


def flash2(p):
    p.refuse(
        prefix="has no prefix mask",
        checkerboard="has no block mask",
        documents="has no ranges of keys",
        head_dim_v="wants V as wide as K",
        bias="has no additive bias",
        **dict.fromkeys(("softcap", "sinks"), f"PyTorch's build has no {p.kind}"),
    )
    square = p.full or p.causal and p.max_q == p.max_kv
    if square and p.kind in ("plain", "dropout") and not p.varlen:
        return sdpa(p, SDPBackend.FLASH_ATTENTION)
    options = {} if p.full or p.causal else dict(zip(("window_size_left", "window_size_right"), p.window))
    if p.kind == "alibi":
        options["alibi_slopes"] = p.slopes
    q, k, v = (p.q, p.k, p.v) if p.varlen else p.bshd()
    starts = p.cumulative if p.varlen else (None, None)
    attend = torch.ops.aten._flash_attention_forward
    call = lambda: attend(q, k, v, *starts, p.max_q, p.max_kv, p.dropout, p.causal, False, **options)[0]
    return call, same if p.varlen else rows_of_bshd


def cudnn(p):
    if not p.varlen:
        return sdpa(p, SDPBackend.CUDNN_ATTENTION)
    p.refuse(
        window="PyTorch offers it no window",
        prefix="PyTorch offers it no prefix mask",
        documents="PyTorch offers it no ranges of keys",
        top_left="aligns its causal mask top-left",
        **dict.fromkeys(("softcap", "alibi", "sinks", "bias", "dropout"), f"PyTorch offers it no {p.kind} beside varlen"),
    )
    attend = torch.ops.aten._cudnn_attention_forward
    return lambda: attend(p.q, p.k, p.v, None, *p.cumulative, p.max_q, p.max_kv, False, 0.0, p.causal)[0], same


def flex(p):
    p.refuse(dropout="has no dropout")
    if p.varlen:
        # One sequence of all tokens; those of others are masked.
        q, k, v = (x.transpose(0, 1).contiguous()[None] for x in (p.q, p.k, p.v))
        ints = lambda values: torch.tensor(values, device=DEVICE, dtype=torch.int32)
        index = torch.arange(p.batch, device=DEVICE, dtype=torch.int32)
        lengths_q, lengths_kv = (ints(x) for x in zip(*p.sequences))
        starts_q, starts_kv = (starts[:-1] for starts in p.cumulative)
        spread_q, spread_kv = (lambda x, n=n: x.repeat_interleave(n) for n in (lengths_q, lengths_kv))
        owner_q, owner_kv = spread_q(index), spread_kv(index)
        at_q = torch.arange(len(p.q), device=DEVICE) - spread_q(starts_q - lengths_kv + lengths_q)
        at_kv = torch.arange(len(p.k), device=DEVICE) - spread_kv(starts_kv)
        place_q, place_kv = (lambda i: at_q[i]), (lambda j: at_kv[j])
        related = lambda i, j: owner_q[i] == owner_kv[j]
    else:
        q, k, v = p.bhsd()
        offset = p.max_kv - p.max_q
        place_q, place_kv = (lambda i: i + offset), (lambda j: j)
        related = None

    def visible(b, h, i, j):
        at = place_kv(j)
        apart = at - place_q(i)
        seen = apart == apart
        if p.left is not None:
            seen = seen & (apart >= -p.left)
        if p.right is not None:
            seen = seen & (apart <= p.right)
        if p.prefix:
            seen = seen | (at < p.prefix)
        if p.checkerboard:
            seen = seen & on_checkerboard(i, j)
        return seen & related(i, j) if related else seen

    mask = None
    if related or p.checkerboard or not p.full:
        pairs = len(p.q) * len(p.k) if p.varlen else p.max_q * p.max_kv
        mask = create_block_mask(
            visible, None, None, q.shape[2], k.shape[2], device=DEVICE, _compile=pairs > WRITABLE_PAIRS)

    modify = None
    if p.kind == "softcap":
        cap = p.score["cap"]
        modify = lambda score, b, h, i, j: cap * torch.tanh(score / cap)
    if p.kind == "alibi":
        slopes = p.slopes
        modify = lambda score, b, h, i, j: score - slopes[h] * torch.abs(place_kv(j) - place_q(i))
    if p.kind == "bias":
        bias = p.bias
        if p.score["per_head"]:
            modify = lambda score, b, h, i, j: score + bias[b, h, i, j]
        else:
            modify = lambda score, b, h, i, j: score + bias[0, 0, i, j]
    options = {"score_mod": modify, "block_mask": mask, "enable_gqa": p.heads_q != p.heads_kv}

    sinks = p.sinks if p.kind == "sinks" else None

    def attend(q, k, v):
        if sinks is None:
            return flex_attention(q, k, v, **options)
        out, aux = flex_attention(q, k, v, return_aux=AuxRequest(lse=True), **options)
        return out * torch.sigmoid(aux.lse - sinks[:, None])[..., None].to(out.dtype)

    torch._dynamo.reset()  # or it would give up after so many problems
    compiled = torch.compile(attend, dynamic=False)
    return lambda: compiled(q, k, v), rows_of_bhsd


IMPLS = {"flash2": flash2, "cudnn": cudnn, "flex": flex, "flash3": flash3}


def reference(p, sequence, head, i):
    """A row of the output, by the definition of attention."""
    seqlen_q, seqlen_kv = p.sequences[sequence]
    start = p.starts_kv[sequence]
    shared = head // (p.heads_q // p.heads_kv)
    keys, values = (x[start : start + seqlen_kv, shared].float() for x in (p.k, p.v))
    scores = keys @ p.q[p.starts_q[sequence] + i, head].float() * p.head_dim**-0.5
    j = torch.arange(seqlen_kv, device=DEVICE)
    here = seqlen_kv - seqlen_q + i
    if p.kind == "softcap":
        scores = p.score["cap"] * torch.tanh(scores / p.score["cap"])
    if p.kind == "alibi":
        scores = scores - p.slopes[head] * (j - here).abs()
    if p.kind == "bias":
        scores = scores + (p.bias[sequence, head, i] if p.score["per_head"] else p.bias[0, 0, i])
    first = 0 if p.left is None else here - p.left
    last = seqlen_kv if p.right is None else here + p.right
    hidden = ((j < first) | (j > last)) & (j >= p.prefix)
    if p.checkerboard:
        hidden = hidden | ~on_checkerboard(i, j)
    if hidden.all():
        return torch.zeros_like(values[0])
    scores = scores.masked_fill(hidden, float("-inf"))
    if p.kind == "sinks":
        scores = torch.cat([scores, p.sinks[head : head + 1].float()])
        values = F.pad(values, (0, 0, 0, 1))
    return scores.softmax(0) @ values


def compare(p, rows):
    """Raises if sampled rows of the output are not what they should be."""
    sample = random.Random(1)
    for _ in range(SAMPLES):
        sequence, head = sample.randrange(p.batch), sample.randrange(p.heads_q)
        i = sample.randrange(p.sequences[sequence][0])
        wanted = reference(p, sequence, head, i)
        error = (rows[p.starts_q[sequence] + i, head].float() - wanted).norm()
        if p.dropout:
            # Everybody leaves out other weights: the row is off by chance, by about so much.
            expected = (p.dropout / (1 - p.dropout)) ** 0.5 * wanted.norm()
            if i > 256 and not expected / 2 <= error <= expected * 2:
                raise RuntimeError(f"computes something else: row {i} is off by {error:.2g}, not by {expected:.2g}")
            continue
        if not error <= TOLERANCE * wanted.norm():
            what = f"sequence {sequence}, head {head}, row {i} is off by {error:.2g} of {wanted.norm():.2g}"
            raise RuntimeError(f"computes something else: {what}")


def prepare(impl, p):
    """The call on `p`; its result is right."""
    if impl == "matmul":
        x, y = p.randn(p.max_q, p.max_q), p.randn(p.max_q, p.max_q)
        return lambda: x @ y
    fn, rows = IMPLS[impl](p)
    compare(p, rows(fn()))
    return fn


def capture(fn, launches):
    """A graph of `launches` calls of `fn`, and `fn` itself, which holds the inputs."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            fn()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(launches):
            fn()
    return graph, fn


def replay_ms(graph, start, end):
    start.record()
    graph.replay()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


def measure(graph, launches, settle_ms, min_replays, min_ms):
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    warm_ups, settled = 0, 0.0
    while warm_ups < 3 or settled < settle_ms:
        settled += replay_ms(graph, start, end)
        warm_ups += 1
    times, total = [], 0.0
    while len(times) < min_replays or total < min_ms:
        times.append(replay_ms(graph, start, end))
        total += times[-1]
    times.sort()
    return {"us": times[len(times) // 2] * 1e3 / launches}


def hello():
    versions = {"torch": torch.__version__, "cudnn": str(torch.backends.cudnn.version())}
    if fa3 is not None:
        versions["flash3"] = str(getattr(fa3, "__version__", "unversioned"))
    return {"impls": [name for name in IMPLS if name not in MISSING], "versions": versions, "missing": MISSING}


def main():
    asked, problem, graphs = None, None, {}
    how = ("impl", "settle_ms", "min_replays", "min_ms")
    for line in sys.stdin:
        r = json.loads(line)
        if "hello" in r:
            answer = hello()
        else:
            wanted = {key: value for key, value in r.items() if key not in how}
            try:
                if wanted != asked:
                    asked, problem, graphs = None, None, {}
                    torch.cuda.empty_cache()
                    asked, problem = wanted, Problem(r)
                if r["impl"] not in graphs:
                    graphs[r["impl"]] = capture(prepare(r["impl"], problem), r["launches"])
                answer = measure(graphs[r["impl"]][0], *(r[x] for x in ("launches", *how[1:])))
            except Exception as reason:  # a peer that cannot do this, or runs out of memory
                answer = {"error": (str(reason).splitlines() or [repr(reason)])[0][:200]}
        print(json.dumps(answer), file=ANSWERS)


if __name__ == "__main__":
    main()
