"""Operations of a pass: hand numbers by layer type, and the same counts by another route."""

from __future__ import annotations

from itertools import combinations, product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from specsim.cost.count import attended, count_ops
from specsim.errors import InputError
from specsim.model import (
    Gqa,
    Mla,
    MoeMlp,
    dtype_bytes,
    flops_per_token,
    kv_bytes,
    load_model,
    model_names,
    param_counts,
    weight_bytes,
)
from specsim.model.spec import STORAGE_BITS, ModelSpec
from specsim.work import Attention, Experts, Gemm, Op, Pass


def ops(
    model: str | ModelSpec, new: float = 1, context: float = 0, seqs: float = 1, tp: int = 1, **more: Any
) -> list[tuple[Op, int]]:
    spec = load_model(model) if isinstance(model, str) else model
    return list(count_ops(spec, Pass("target", more.get("kind", "verify"), [new], [context], [seqs]), tp))


def named(found: list[tuple[Op, int]], name: str) -> Any:
    """The one operation of that name, of the last group of layers that has it."""
    return [op for op, _ in found if op.name == name][-1]


def total_flops(found: list[tuple[Op, int]]) -> float:
    return float(sum(op.flops * runs for op, runs in found))


def test_a_gqa_layer_by_hand() -> None:
    """Llama-3.1-8B: hidden 4096, 32 heads and 8 KV heads of 128, MLP 14336, vocabulary 128256; bf16.

    One token that attends to 1024.
    """
    found = ops("llama-3.1-8b", context=1023)
    qkv = named(found, "qkv")  # (32 + 2 x 8) x 128 = 6144 outputs
    assert qkv.flops == 2 * 6144 * 4096 == 50_331_648
    assert qkv.bytes == 6144 * 4096 * 2 + (6144 + 4096) * 2 == 50_352_128
    attention = named(found, "attention")
    assert attention.flops == 1024 * 4 * 32 * 128 == 16_777_216  # scores and weighted values: 2 x 2 x heads x head_dim
    assert attention.bytes == 1024 * 2 * 8 * 128 * 2 == 4_194_304  # keys and values of 8 heads
    assert named(found, "attention out").flops == 2 * 4096 * 4096 == 33_554_432
    assert named(found, "mlp up").flops == 2 * (2 * 14336) * 4096 == 234_881_024  # gate and up
    assert named(found, "mlp down").flops == 2 * 4096 * 14336 == 117_440_512
    assert named(found, "lm head").flops == 2 * 128_256 * 4096 == 1_050_673_152
    layer = 50_331_648 + 16_777_216 + 33_554_432 + 234_881_024 + 117_440_512
    assert total_flops(found) == 32 * layer + 1_050_673_152 == 15_546_187_776


def test_a_verification_by_hand() -> None:
    """Five tokens of each of 3 sequences on 100 cached: m = 15, pairs 3 (5 x 100 + 1+2+3+4+5), keys 3 x 105."""
    found = ops("llama-3.1-8b", new=5, context=100, seqs=3)
    assert named(found, "qkv").flops == 15 * 50_331_648
    assert named(found, "qkv").bytes == 6144 * 4096 * 2 + 15 * (6144 + 4096) * 2  # weights once
    assert named(found, "attention").flops == 3 * 515 * 4 * 32 * 128
    assert named(found, "attention").bytes == 3 * 105 * 2 * 8 * 128 * 2
    assert named(found, "lm head").flops == 15 * 1_050_673_152
    assert named(ops("llama-3.1-8b", new=5, seqs=3, kind="prefill"), "lm head").flops == 3 * 1_050_673_152


def test_a_multi_head_layer_by_hand() -> None:
    """Vicuna-7B: 32 KV heads for 32 heads, so 4 x the KV of Llama-3.1-8B."""
    found = ops("vicuna-7b", context=1023)
    assert named(found, "qkv").flops == 2 * (3 * 4096) * 4096 == 100_663_296
    assert named(found, "attention").bytes == 1024 * 2 * 32 * 128 * 2 == 16_777_216
    assert named(found, "attention").flops == 16_777_216


def test_a_mixture_of_experts_by_hand() -> None:
    """Mixtral 8x7B: each of 4 tokens visits 2 of 8 experts of 3 x 4096 x 14336 weights.

    Distinct experts: 8 (1 - (1 - 2/8)^4) = 8 (1 - 81/256) = 5.46875.
    """
    found = ops("mixtral-8x7b", new=4)
    experts = named(found, "experts")
    per_expert = 3 * 4096 * 14336
    assert per_expert == 176_160_768
    assert experts.distinct == 5.46875
    assert experts.flops == 2 * 4 * 2 * per_expert == 2_818_572_288
    assert experts.bytes == 5.46875 * per_expert * 2 == 1_926_758_400
    assert named(found, "router").flops == 4 * 2 * 8 * 4096
    assert named(ops("mixtral-8x7b", new=1), "experts").distinct == pytest.approx(2)  # one token: its own two


@pytest.mark.parametrize(("num_experts", "top_k", "m"), [(4, 2, 3), (5, 1, 4), (3, 3, 2)])
def test_distinct_experts_by_enumeration(num_experts: int, top_k: int, m: int) -> None:
    choices = list(combinations(range(num_experts), top_k))
    visited = [len(set().union(*chosen)) for chosen in product(choices, repeat=m)]
    op = Experts(m, num_experts, top_k, hidden=1, inter=1, num_matrices=3, dtype="bf16", weight_bits=16)
    assert op.distinct == pytest.approx(np.mean(visited))


def test_latent_attention_by_hand() -> None:
    """DeepSeek-V3: hidden 7168, 128 heads, latent 512 + 64 rotary, queries through 1536, heads of 128 (+ 64 rotary).

    Absorbed form, one token that attends to 1000; weights in fp8 (one fp32 scale per 128 x 128), KV in bf16.
    """
    found = ops("deepseek-v3", context=999)
    assert named(found, "query and latent down").flops == 2 * (1536 + 576) * 7168 == 30_277_632
    assert named(found, "query up").flops == 2 * (128 * 192) * 1536 == 75_497_472
    assert named(found, "absorb query").flops == 2 * 128 * 128 * 512 == 16_777_216
    assert named(found, "attention").flops == 1000 * 2 * 128 * (576 + 512) == 278_528_000
    assert named(found, "attention").bytes == 1000 * 576 * 2 == 1_152_000
    assert named(found, "value up").flops == 2 * 128 * 128 * 512
    assert named(found, "attention out").flops == 2 * 7168 * (128 * 128) == 234_881_024
    weights = 7168 * 16384 * (8 + 32 / 128**2) / 8
    assert named(found, "attention out").bytes == weights + (7168 + 16384) * 2


def test_an_eagle3_head_by_hand() -> None:
    """Of Llama-3.1-8B: three features of 4096 fused to one, q, k, v from 2 x 4096, LM head of 32000 rows."""
    found = ops("eagle3-llama-3.1-8b", context=999)
    assert named(found, "fusion").flops == 2 * 12_288 * 4096 == 100_663_296
    assert named(found, "qkv").flops == 2 * 6144 * 8192 == 100_663_296
    assert named(found, "lm head").flops == 2 * 32_000 * 4096 == 262_144_000
    layer = 100_663_296 + 1000 * 16_384 + 33_554_432 + 234_881_024 + 117_440_512
    assert total_flops(found) == 100_663_296 + layer + 262_144_000 == 865_730_560


def test_medusa_heads_by_hand() -> None:
    """Five heads on Vicuna-7B, each a residual block of 4096 x 4096 and an LM head of 32000 rows; no attention."""
    found = ops("medusa-vicuna-7b")
    assert total_flops(found) == 5 * 2 * (4096 * 4096 + 32_000 * 4096) == 1_478_492_160
    assert sum(runs for op, runs in found if op.name == "lm head") == 5
    assert not [op for op, _ in found if isinstance(op, Attention)]


@pytest.mark.parametrize("name", model_names())
@pytest.mark.parametrize("context_tokens", [1, 5000])
def test_flops_of_a_token_by_two_routes(name: str, context_tokens: int) -> None:
    """Summed over operations, and from the counts of parameters."""
    model = load_model(name)
    assert total_flops(ops(model, context=context_tokens - 1)) == flops_per_token(model, context_tokens)


@pytest.mark.parametrize("name", model_names())
def test_bytes_of_a_token_by_two_routes(name: str) -> None:
    """Weights that a batch-1 pass reads: all stored ones but the embedding, norms, biases and experts not chosen.

    A tied or shared LM head is read though it is not stored (again). KV: what a sequence holds.
    """
    model = load_model(name)
    found, parts = ops(model, context=4999), param_counts(model)
    read = sum(_weight_bytes(op) * runs for op, runs in found)
    other = STORAGE_BITS[model.other_dtype] / 8
    idle = sum(parts[part] for part in ("embedding", "norm", "bias")) * other
    for group in model.layers:
        if isinstance(group.mlp, MoeMlp):
            unchosen = group.mlp.num_experts - group.mlp.experts_per_token
            idle += group.count * unchosen * 3 * group.mlp.intermediate_size * model.hidden_size * model.weight_bits / 8
    borrowed = 0 if parts["lm_head"] else model.lm_head_rows * model.hidden_size * other
    assert read == pytest.approx(weight_bytes(model) - idle + borrowed, rel=1e-9)
    assert sum(op.bytes * runs for op, runs in found if isinstance(op, Attention)) == kv_bytes(model, 5000)


def _weight_bytes(op: Op) -> Any:
    if isinstance(op, Gemm):
        return op.n * op.k * op.weight_bits / 8
    return op.bytes if isinstance(op, Experts) else 0


# Every device computes these in full; all else is split.
REPLICATED = ("router", "fusion", "medusa block", "query and latent down", "sampling", "embedding", "norm")


def splits_in_two(name: str) -> bool:
    """Whether every head has a half: one KV head can not be split, nor a projection that makes queries and latents."""
    attentions = [group.attention for group in load_model(name).layers]
    return all(a.num_kv_heads % 2 == 0 if isinstance(a, Gqa) else a.q_lora_rank is not None for a in attentions)


@pytest.mark.parametrize("name", [n for n in model_names() if splits_in_two(n)])
def test_two_devices_do_the_work_of_one(name: str) -> None:
    model = load_model(name)
    alone, shared = ops(model, new=3, context=700), [(o, n) for o, n in ops(model, new=3, context=700, tp=2)]
    shared = [(op, runs) for op, runs in shared if op.name != "all-reduce"]
    for (one, runs), (half, same_runs) in zip(alone, shared, strict=True):
        assert (one.name, runs) == (half.name, same_runs)
        parts = 1 if one.name in REPLICATED else 2
        assert half.flops * parts == pytest.approx(one.flops)
        assert _weight_bytes(half) * parts == pytest.approx(_weight_bytes(one))
        if isinstance(one, Attention):  # a latent cache is held whole by every device
            latent = any(isinstance(group.attention, Mla) for group in model.layers)
            assert half.bytes * (1 if latent else 2) == pytest.approx(one.bytes)


def test_more_devices_than_kv_heads_repeat_them() -> None:
    """Llama-3.1-8B on 16: one of 8 KV heads on each, q of 2 heads: (2 + 2 x 1) x 128 = 512 outputs."""
    found = ops("llama-3.1-8b", context=1023, tp=16)
    assert named(found, "qkv").n == 512
    assert named(found, "attention").bytes == 1024 * 2 * 1 * 128 * 2


def test_all_reduces_by_hand() -> None:
    """Two per layer of m x hidden activations; a ring of 4 moves 2 x 3/4 of them."""
    ((reduce, runs),) = [(op, n) for op, n in ops("llama-3.1-8b", new=2, seqs=4, tp=4) if op.name == "all-reduce"]
    assert runs == 64
    assert reduce.message_bytes == 8 * 4096 * 2
    assert reduce.bytes == 1.5 * 65_536


SMALL = st.integers(1, 40)


@given(new=SMALL, context=st.integers(0, 40), window=st.none() | SMALL)
def test_attended_by_brute_force(new: int, context: int, window: int | None) -> None:
    """Query i at position context + i sees the last ``window`` positions up to its own."""
    seen = [range(max(0, context + i + 1 - (window or 10**9)), context + i + 1) for i in range(new)]
    pairs, keys = attended(np.array([new]), np.array([context]), np.array([1.0]), window)
    assert pairs == sum(len(keys) for keys in seen)
    assert keys == len(set().union(*seen))


@given(groups=st.lists(st.tuples(SMALL, st.integers(0, 5000), SMALL), min_size=1, max_size=5))
def test_a_ragged_batch_is_the_sum_of_its_groups(groups: list[tuple[int, int, int]]) -> None:
    """FLOPs and KV add over groups; weights are read once for all."""
    new, context, seqs = map(np.array, zip(*groups, strict=True))
    model = load_model("gemma-2-2b")
    together = list(count_ops(model, Pass("target", "verify", new, context, seqs)))
    apart = [ops(model, *group) for group in groups]
    assert total_flops(together) == pytest.approx(sum(map(total_flops, apart)))
    kv = [sum(op.bytes * n for op, n in found if isinstance(op, Attention)) for found in (together, *apart)]
    assert kv[0] == pytest.approx(sum(kv[1:]))
    assert sum(_weight_bytes(op) * n for op, n in together) == sum(_weight_bytes(op) * n for op, n in apart[0])


def test_groups_that_only_their_context_tells_apart_all_count() -> None:
    work = Pass("target", "verify", [4], context_tokens=[100, 200], num_seqs=3)
    assert work.total_new_tokens == 24
    assert work.logit_tokens == 24
    assert Pass("target", "prefill", [4], [100, 200], 3).logit_tokens == 6


@pytest.mark.parametrize(
    ("field", "arguments"),
    [("new_tokens", ([0], [5])), ("context_tokens", ([1], [-1])), ("num_seqs", ([1], [5], [-2]))],
)
def test_impossible_passes_are_refused(field: str, arguments: tuple[list[int], ...]) -> None:
    with pytest.raises(InputError, match=field):
        Pass("target", "decode", *arguments)
    with pytest.raises(InputError, match="broadcast"):
        Pass("target", "decode", [1, 2], [1, 2, 3])


def test_kv_dtype_and_quantised_weights_are_what_is_read() -> None:
    """fp8 KV halves the cache's bytes; gpt-oss stores its experts at 4.25 bits and its attention at 16."""
    model = load_model("llama-3.1-8b").model_copy(update={"kv_dtype": "fp8"})
    assert named(ops(model, context=1023), "attention").bytes == 4_194_304 / 2
    found = ops("gpt-oss-20b")
    assert named(found, "experts").weight_bits == 4.25
    assert named(found, "qkv").weight_bits == 8 * dtype_bytes("bf16")
    assert isinstance(load_model("gpt-oss-20b").layers[0].attention, Gqa)
