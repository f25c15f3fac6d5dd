#!/usr/bin/env python3
"""Time the attention kernels that one would use instead of flashcore, on request.

Reads one JSON object a line and answers each with one:

    {"hello": true}                            -> {"impls": [...], "versions": {...}, "missing": {...}}
    {"impl", "dtype", "B", "H", "Hkv", "S", "Sk", "D", "causal", "launches", "settle_ms", "min_replays", "min_ms"}
                                               -> {"us"} or {"error"}

`us` is GPU time of one call: `launches` calls in one CUDA graph, the graph replayed for `settle_ms`, then at least
`min_replays` times and for at least `min_ms`, the median over the latter replays. The graphs of a shape are kept until
another shape is asked for.

Implementations: PyTorch's flash (FlashAttention-2) and cuDNN back ends of scaled_dot_product_attention;
FlashAttention-3 where `import flash_attn_interface` works; `matmul`, a square S x S product through cuBLAS.
"""
import json
import os
import sys

# Answers go to the real standard output; whatever libraries print goes to standard error.
ANSWERS = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

MISSING = {}
try:
    import flash_attn_interface as fa3
except Exception as reason:
    fa3 = None
    MISSING["flash3"] = str(reason)

BACKENDS = {"flash2": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}
DTYPES = {"f16": torch.float16, "bf16": torch.bfloat16}


def call(r):
    """The call that a request is about, on fresh random tensors."""
    randn = lambda *shape: torch.randn(*shape, device="cuda", dtype=DTYPES[r["dtype"]])
    if r["impl"] == "matmul":
        x, y = randn(r["S"], r["S"]), randn(r["S"], r["S"])
        return lambda: x @ y
    if r["impl"] == "flash3":
        if fa3 is None:
            raise RuntimeError(MISSING["flash3"])
        q = randn(r["B"], r["S"], r["H"], r["D"])
        k, v = (randn(r["B"], r["Sk"], r["Hkv"], r["D"]) for _ in range(2))
        return lambda: fa3.flash_attn_func(q, k, v, causal=r["causal"])
    if r["causal"] and r["S"] != r["Sk"]:
        raise RuntimeError("aligns its causal mask top-left")
    q = randn(r["B"], r["H"], r["S"], r["D"])
    k, v = (randn(r["B"], r["Hkv"], r["Sk"], r["D"]) for _ in range(2))

    shared = {"enable_gqa": True} if r["H"] != r["Hkv"] else {}

    def forward():
        with sdpa_kernel(BACKENDS[r["impl"]]):
            return F.scaled_dot_product_attention(q, k, v, is_causal=r["causal"], **shared)

    return forward


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


def main():
    shape, graphs = None, {}
    for line in sys.stdin:
        r = json.loads(line)
        if "hello" in r:
            versions = {"torch": torch.__version__, "cudnn": str(torch.backends.cudnn.version())}
            if fa3 is not None:
                versions["flash3"] = str(getattr(fa3, "__version__", "unversioned"))
            answer = {"impls": [*BACKENDS] + (["flash3"] if fa3 else []), "versions": versions, "missing": MISSING}
        else:
            wanted = tuple(r[x] for x in ("dtype", "B", "H", "Hkv", "S", "Sk", "D", "causal", "launches"))
            if wanted != shape:
                shape, graphs = wanted, {}
                torch.cuda.empty_cache()
            try:
                if r["impl"] not in graphs:
                    graphs[r["impl"]] = capture(call(r), r["launches"])
                answer = measure(graphs[r["impl"]][0], *(r[x] for x in ("launches", "settle_ms", "min_replays", "min_ms")))
            except Exception as reason:  # a peer that lacks this shape, or runs out of memory
                answer = {"error": (str(reason).splitlines() or [repr(reason)])[0][:200]}
        print(json.dumps(answer), file=ANSWERS)


if __name__ == "__main__":
    main()
