"""The drop-in for FlashAttention-3, on the CPU."""

import pytest

import flashcore

torch = pytest.importorskip("torch")

from flashcore import flash_attn_interface as interface  # noqa: E402


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(torch.bfloat16)


Q, K, V = normal(2, 40, 4, 64), normal(2, 60, 2, 64, seed=1), normal(2, 60, 2, 64, seed=2)


def test_dense_attention():
    expected, lse = flashcore.attention(Q, K, V, causal=True, scale=0.2, return_lse=True)
    found = interface.flash_attn_func(Q, K, V, 0.2, True, num_splits=3, pack_gqa=True, sm_margin=4, deterministic=True)
    assert torch.equal(found, expected)
    out, found = interface.flash_attn_func(Q, K, V, softmax_scale=0.2, causal=True, return_attn_probs=True)
    assert torch.equal(out, expected) and torch.equal(found, lse)


def test_windows_that_are_no_windows():
    full, causal = flashcore.attention(Q, K, V), flashcore.attention(Q, K, V, causal=True)
    for window in [(-1, -1), (59, -1), (-1, 39), (100, 100), torch.tensor([59, 39])]:
        assert torch.equal(interface.flash_attn_func(Q, K, V, window_size=window), full)
    for window in [(-1, 0), (59, 0)]:
        assert torch.equal(interface.flash_attn_func(Q, K, V, window_size=window), causal)
    for window in [(-1, -1), (-1, 0), (59, 39), (-1, 7)]:
        assert torch.equal(interface.flash_attn_func(Q, K, V, causal=True, window_size=window), causal)


def test_elements_that_are_no_neighbours_are_copied():
    v = V.transpose(1, 3).contiguous().transpose(1, 3)
    assert v.stride(-1) != 1
    assert torch.equal(interface.flash_attn_func(Q, K, v), interface.flash_attn_func(Q, K, V))


def test_packed():
    qkv = normal(2, 40, 3, 4, 64)
    expected = flashcore.attention(*qkv.unbind(2), causal=True)
    assert torch.equal(interface.flash_attn_qkvpacked_func(qkv, causal=True), expected)
    heads = normal(2, 40, 8, 64)
    q, k, v = heads[:, :, :4], heads[:, :, 4:6], heads[:, :, 6:]
    expected, lse = flashcore.attention(q, k, v, return_lse=True)
    out, found = interface.flash_attn_qkvpacked_func(heads, num_heads_q=4, return_attn_probs=True)
    assert torch.equal(out, expected) and torch.equal(found, lse)
    with pytest.raises(ValueError, match="num_heads_q"):
        interface.flash_attn_qkvpacked_func(heads)


def test_caches_of_one_length():
    expected, lse = flashcore.attention(Q, K, V, causal=True, return_lse=True)
    assert torch.equal(interface.flash_attn_with_kvcache(Q, K, V, causal=True), expected)
    longer = [torch.cat([x, x], dim=1) for x in (K, V)]
    out, found, *split = interface.flash_attn_with_kvcache(
        Q, *longer, cache_seqlens=60, causal=True, return_softmax_lse=True
    )
    assert torch.equal(out, expected) and torch.equal(found, lse)
    assert [x.numel() for x in split] == [0, 0]


def test_windows_chunks_and_softcap():
    for arguments, options in [
        (dict(window_size=(5, 3)), dict(window=(5, 3))),
        (dict(window_size=torch.tensor([5, 30])), dict(window=(5, 30))),
        (dict(window_size=(5, 0)), dict(causal=True, window=(5, None))),
        (dict(causal=True, window_size=(5, -1)), dict(causal=True, window=(5, None))),
        (dict(causal=True, window_size=(5, 9)), dict(causal=True, window=(5, None))),
        (dict(attention_chunk=7), dict(chunk=7)),
        (dict(softcap=15.0, causal=True), dict(softcap=15.0, causal=True, approximate_softcap=True)),
    ]:
        expected, lse = flashcore.attention(Q, K, V, return_lse=True, **options)
        out, found = interface.flash_attn_func(Q, K, V, return_attn_probs=True, **arguments)
        assert torch.equal(out, expected) and torch.equal(found, lse)
    assert not torch.equal(expected, flashcore.attention(Q, K, V, causal=True))


def ints(*numbers):
    return torch.tensor(numbers, dtype=torch.int32)


STARTS = ints(0, 25, 40)


@pytest.mark.parametrize("arguments", [dict(), dict(causal=True), dict(window_size=(9, 4), softcap=5.0)])
def test_variable_lengths(arguments):
    q, k, v = Q[0], K[0], V[0]
    starts, used_q, used_k = ints(0, 50, 60), ints(20, 15), ints(50, 4)
    out, lse = interface.flash_attn_varlen_func(
        q, k, v, STARTS, starts, 25, 50, seqused_q=used_q, seqused_k=used_k, return_attn_probs=True, **arguments
    )
    assert out.shape == q.shape and lse.shape == (4, 40)
    for b in range(2):
        rows = slice(int(STARTS[b]), int(STARTS[b] + used_q[b]))
        keys = slice(int(starts[b]), int(starts[b] + used_k[b]))
        expected, expected_lse = interface.flash_attn_func(
            q[None, rows], k[None, keys], v[None, keys], return_attn_probs=True, **arguments
        )
        torch.testing.assert_close(out[None, rows], expected, rtol=0.02, atol=0.02)
        torch.testing.assert_close(lse[None, :, rows], expected_lse, rtol=1e-4, atol=1e-4)
    plain = interface.flash_attn_varlen_func(q, k, v, STARTS, starts, 25, 50, **arguments)
    for rows, keys in [(slice(0, 25), slice(0, 50)), (slice(25, 40), slice(50, 60))]:
        expected = interface.flash_attn_func(q[None, rows], k[None, keys], v[None, keys], **arguments)
        torch.testing.assert_close(plain[None, rows], expected, rtol=0.02, atol=0.02)


def test_caches_of_several_lengths():
    used, metadata = ints(60, 33), interface.get_scheduler_metadata(2, 40, 60, 4, 2, 64, ints(60, 33), Q.dtype)
    options = dict(cache_seqlens=used, causal=True, window_size=(30, -1), softcap=20.0)
    out, lse, *_ = interface.flash_attn_with_kvcache(
        Q, K, V, scheduler_metadata=metadata, return_softmax_lse=True, **options
    )
    expected, expected_lse = flashcore.attention(
        Q,
        K,
        V,
        causal=True,
        window=(30, None),
        softcap=20.0,
        approximate_softcap=True,
        seqused_kv=used,
        return_lse=True,
    )
    assert torch.equal(out, expected) and torch.equal(lse, expected_lse)
    found = interface.flash_attn_with_kvcache(Q.flatten(0, 1), K, V, cu_seqlens_q=ints(0, 40, 80), **options)
    assert torch.equal(found.view_as(out), expected)
    one = interface.flash_attn_with_kvcache(Q[1:], K[1:], V[1:], **(options | dict(cache_seqlens=33)))
    torch.testing.assert_close(one, expected[1:], rtol=0.02, atol=0.02)


SCALE = torch.ones(2, 2)
MISSING = [
    (lambda: interface.flash_attn_func(Q, K, V, qv=Q), r"qv"),
    (lambda: interface.flash_attn_func(Q, K, V, k_descale=SCALE), r"k_descale"),
    (lambda: interface.flash_attn_func(Q, K, normal(2, 60, 2, 520)), r"head_dim 520"),
    (lambda: interface.flash_attn_func(Q, K, normal(2, 60, 2, 512), softcap=9.0), r"head_dim 512 with a softcap"),
    (lambda: interface.flash_attn_func(*[x[..., :59] for x in (Q, K, V)]), r"head_dim 59"),
    (lambda: interface.flash_attn_func(*[x.to(torch.float8_e4m3fn) for x in (Q, K, V)]), r"float8_e4m3fn"),
    (lambda: interface.flash_attn_with_kvcache(Q, K, V, k=K, v=V), r"appending to a cache"),
    (lambda: interface.flash_attn_with_kvcache(Q, K, V, page_table=SCALE), r"paged KV"),
    (lambda: interface.flash_attn_with_kvcache(Q, K, V, rotary_cos=SCALE), r"rotary embedding"),
    (lambda: interface.flash_attn_with_kvcache(Q, K, V, cache_batch_idx=SCALE), r"cache_batch_idx"),
    (lambda: interface.flash_attn_with_kvcache(Q, K, V, cache_leftpad=SCALE), r"cache_leftpad"),
    (lambda: interface.flash_attn_with_kvcache(Q, K, V, cu_seqlens_k_new=SCALE), r"appending to a cache"),
    (lambda: interface.flash_attn_varlen_func(Q[0], K[0], V[0], STARTS, STARTS, 40, 60, qv=Q), r"qv"),
    (lambda: interface.flash_attn_varlen_func(Q[0], K[0], V[0], STARTS, STARTS, 40, 60, v_descale=SCALE), r"v_descale"),
    (lambda: interface.flash_attn_combine(Q, SCALE), r"flash_attn_combine"),
]


@pytest.mark.parametrize("call, what", MISSING, ids=[what for _, what in MISSING])
def test_what_is_missing_is_named(call, what):
    with pytest.raises(NotImplementedError, match=f"flashcore has no .*{what}.* yet") as raised:
        call()
    assert isinstance(raised.value, flashcore.UnsupportedError)


def test_there_is_no_backward_pass():
    q = Q.clone().requires_grad_()
    out = interface.flash_attn_func(q, K, V)
    with pytest.raises(NotImplementedError, match="no backward pass yet"):
        torch.autograd.grad(out.sum(), q)


def test_gradients_of_v_alone_are_recorded():
    v = V.clone().requires_grad_()
    out, lse = interface.flash_attn_func(Q, K, v, return_attn_probs=True)
    assert out.requires_grad and torch.equal(out.detach(), flashcore.attention(Q, K, V))
