#!/usr/bin/env python3
"""Host time of a call: how long Python is busy until the work is submitted. Calls of several implementations take
turns.

A sleeping kernel keeps the stream busy meanwhile, so that nothing waits for the GPU, and no call finds an idle one. The
shape is small, and the figure is the median over thousands of calls. Without a GPU the CUDA path is taken all the same,
but its call of the C library returns at once (and so does PyTorch's answer what the current stream is): what remains is
the time that is spent in Python.

Example: overhead.py --fa3 ~/fa3 --json overhead.json
"""

import argparse
import ctypes
import importlib
import json
import statistics
import sys
import time

import torch

import flashcore
import flashcore.torch
from flashcore import _library, flash_attn_interface

SHAPE = (1, 64, 8, 64)
CALLS_A_ROUND = 200


def implementations(fa3, tensors):
    """What is called, by its name. What cannot be called here is None, with the reason."""
    q, k, v = tensors
    heads_first = [x.transpose(1, 2) for x in tensors]
    out = torch.empty_like(q)
    calls = {
        "flashcore.attention": lambda: flashcore.attention(q, k, v, causal=True),
        "flashcore.attention, out=": lambda: flashcore.attention(q, k, v, causal=True, out=out),
        "flashcore.attention, return_lse": lambda: flashcore.attention(q, k, v, causal=True, return_lse=True),
        "flashcore.torch.attention": lambda: flashcore.torch.attention(q, k, v, True),
        "flashcore's flash_attn_func": lambda: flash_attn_interface.flash_attn_func(q, k, v, causal=True),
    }
    for name in ("CUDNN_ATTENTION", "FLASH_ATTENTION"):
        calls[f"PyTorch, {name}"] = sdpa(getattr(torch.nn.attention.SDPBackend, name), heads_first)
    if fa3:
        sys.path.insert(0, fa3)
        try:
            peer = importlib.import_module("flash_attn_interface")
            calls["FlashAttention-3's flash_attn_func"] = lambda: peer.flash_attn_func(q, k, v, causal=True)
        except ImportError as error:
            print(f"FlashAttention-3 is left out: {error}", file=sys.stderr)
    return calls


def sdpa(backend, tensors):
    """PyTorch's attention by one back end, which is chosen once for a round and not in each call."""
    attention = torch.nn.functional.scaled_dot_product_attention

    def call():
        return attention(*tensors, is_causal=True)

    call.context = lambda: torch.nn.attention.sdpa_kernel(backend)
    return call


def microseconds(call, on_gpu):
    """Host time of each call of a round."""
    times = []
    if on_gpu:
        torch.cuda.synchronize()
        torch.cuda._sleep(200_000_000)  # about a tenth of a second
    for _ in range(CALLS_A_ROUND):
        start = time.perf_counter_ns()
        call()
        times.append((time.perf_counter_ns() - start) / 1000)
    return times


def leave_out_the_library():
    """Takes CPU tensors for CUDA tensors, and the work for done."""
    from flashcore import _torch

    nothing = ctypes.CDLL(None).getppid
    nothing.restype, nothing.argtypes = _library._SIGNATURES["fc_attention_forward"]
    _library._forward = lambda *arguments: nothing(*arguments) * 0
    _library._cuda[0] = _library.Device(1)
    _torch._current_stream = lambda ordinal: 0
    torch.Tensor.get_device = lambda tensor: 0


def main():
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n\nExample")[0],
        epilog="Example: overhead.py --fa3 ~/fa3 --json overhead.json",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--fa3", metavar="DIR", help="where FlashAttention-3's flash_attn_interface can be imported from"
    )
    parser.add_argument("--rounds", type=int, default=20, help=f"of {CALLS_A_ROUND} calls each (default: 20)")
    parser.add_argument("--json", metavar="FILE", help="also write the figures here")
    arguments = parser.parse_args()

    on_gpu = torch.cuda.is_available()
    device = "cuda" if on_gpu else "cpu"
    tensors = [torch.randn(SHAPE, device=device).to(torch.bfloat16) for _ in "qkv"]
    calls = implementations(arguments.fa3, tensors)
    if not on_gpu:
        leave_out_the_library()
        calls = {name: call for name, call in calls.items() if name.startswith("flashcore")}
    times = {name: [] for name in calls}
    failures = {}
    with torch.no_grad():
        for round_number in range(arguments.rounds + 1):
            for name, call in calls.items():
                if name in failures:
                    continue
                try:
                    if hasattr(call, "context"):
                        with call.context():
                            found = microseconds(call, on_gpu)
                    else:
                        found = microseconds(call, on_gpu)
                except RuntimeError as error:  # a back end that this PyTorch or GPU has not
                    failures[name] = str(error).partition("\n")[0]
                    continue
                if round_number > 0:  # the first one loads kernels
                    times[name] += found

    where = torch.cuda.get_device_name() if on_gpu else "no GPU: Python only, without the C library"
    print(f"{where}; torch {torch.__version__}, flashcore {flashcore.__version__}; bf16, causal, {SHAPE}")
    print(f"{'host time of a call, in microseconds':40} {'median':>8} {'best 10 %':>10}")
    figures = {}
    for name, values in times.items():
        if name in failures:
            print(f"{name:40} {'-':>8}  {failures[name]}")
            continue
        median, tenth = statistics.median(values), statistics.quantiles(values, n=10)[0]
        figures[name] = {"median_us": median, "tenth_percentile_us": tenth, "calls": len(values)}
        print(f"{name:40} {median:8.2f} {tenth:10.2f}")
    if arguments.json:
        report = {"device": where, "torch": torch.__version__, "flashcore": flashcore.__version__}
        report |= {"shape": SHAPE, "figures": figures, "failures": failures}
        with open(arguments.json, "w") as file:
            json.dump(report, file, indent=2)


if __name__ == "__main__":
    main()
