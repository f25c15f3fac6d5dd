"""Attention on NumPy's arrays, computed by the emulator."""

import threading

import ml_dtypes
import numpy as np
import pytest
import reference
from cases import CASES, LAYOUTS
from hypothesis import given, settings

import flashcore

DTYPES = [np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)]


@pytest.fixture(params=DTYPES, ids=str)
def dtype(request):
    return request.param


def normal(shape, dtype, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@settings(max_examples=60)
@given(case=CASES)
def test_results_are_those_of_the_reference(dtype, case):
    q, k, v, out = case.arrays(dtype)
    found, lse = flashcore.attention(q, k, v, causal=case.causal, scale=case.scale, return_lse=True, out=out)
    assert found is out
    reference.check(out, q, k, v, lse, case.causal, case.scale)


def test_rows_without_keys_are_zero(dtype):
    q, k = normal((1, 5, 2, 64), dtype), normal((1, 3, 2, 64), dtype)
    out, lse = flashcore.attention(q, k, k, causal=True, return_lse=True)
    assert np.all(out[:, :2] == 0) and np.all(lse[:, :, :2] == -np.inf)
    assert np.all(np.isfinite(lse[:, :, 2:]))
    out, lse = flashcore.attention(q, k[:, :0], k[:, :0], return_lse=True)
    assert np.all(out == 0) and np.all(lse == -np.inf)


def test_inputs_stay_and_memory_around_out_stays(dtype):
    q = normal((1, 20, 3, 64), dtype)
    before = q.copy()
    memory = np.full((1, 20, 6, 64), 7, dtype)
    flashcore.attention(q, q, q, out=memory[:, :, ::2])
    assert np.array_equal(q, before)
    assert np.all(memory[:, :, 1::2] == 7)
    reference.check(memory[:, :, ::2], q, q, q)


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_the_output_lies_like_q(layout):
    q = LAYOUTS[layout]((2, 9, 3, 64), np.float16)
    q[...] = 1
    out = flashcore.attention(q, q, q)
    assert np.argsort(out.strides).tolist() == np.argsort(q.strides).tolist()
    assert np.all(out == 1)


def test_views_of_packed_qkv_and_broadcast_heads():
    qkv = normal((2, 30, 3, 2, 64), np.float16)
    q, k, v = (qkv[:, :, i] for i in range(3))
    reference.check(flashcore.attention(q, k, v, causal=True), q, k, v, causal=True)
    k, v = (np.broadcast_to(x[:, :, :1], x.shape) for x in (k, v))
    reference.check(flashcore.attention(q, k, v), q, k, v)
    q = np.broadcast_to(q[:1], q.shape)
    reference.check(flashcore.attention(q, k, v), q, k, v)


def test_read_only_inputs_and_subclasses():
    q = normal((1, 10, 1, 64), np.float16)
    q.flags.writeable = False
    q = q.view(type("Labelled", (np.ndarray,), {}))
    out = flashcore.attention(q, q, q)
    assert type(out) is np.ndarray
    reference.check(out, q, q, q)


def test_the_same_call_gives_the_same_bits(dtype):
    q = normal((1, 130, 2, 128), dtype)
    first, second = (flashcore.attention(q, q, q, causal=True).tobytes() for _ in range(2))
    assert first == second


def test_threads_share_the_device():
    arrays = [normal((1, 40 + i, 2, 64), np.float16, i) for i in range(4)]
    failures = []

    def work(index):
        try:
            for _ in range(3):
                q = arrays[index]
                reference.check(flashcore.attention(q, q, q, causal=index % 2 == 1), q, q, q, causal=index % 2 == 1)
                with pytest.raises(flashcore.ArgumentError, match=f"head_dim {index + 1} "):
                    wrong = q[..., : index + 1].copy()
                    flashcore.attention(wrong, wrong, wrong)
        except BaseException as failure:  # pytest's failures are no Exceptions
            failures.append(failure)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_plans_say_what_would_be_computed():
    q, k = normal((2, 300, 4, 128), np.float16), normal((2, 500, 2, 128), np.float16)
    text = flashcore.plan(q, k, k, causal=True, scale=0.5)
    assert "batch 2, seqlen 300 x 500, heads 4 x 2, head_dim 128, f16, causal, scale 0.5" in text
    assert "kernel" in text and "grid" in text
    other = np.empty((2, 4, 300, 128), np.float16).transpose(0, 2, 1, 3)
    assert flashcore.plan(q, k, k, out=other) != flashcore.plan(q, k, k)
