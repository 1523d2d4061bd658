"""The roofline: monotone where physics says so, its shares are derivatives, and arrays give what numbers give."""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specsim.cost.engine import class_of_params
from specsim.cost.model import PassCost, roofline_cost
from specsim.cost.params import CostParams, Runtime, transferred_params
from specsim.cost.roofline import Roofline, math_dtype
from specsim.errors import InputError
from specsim.hardware import HardwareProfile, load_hardware
from specsim.model import load_model, quantized
from specsim.work import BOUNDS, AllReduce, Cost, Elementwise, Gemm, HostWork, Pass, Transfer

DEVICES = st.sampled_from(["a100-80gb-sxm", "h100-sxm", "h20", "l4", "rtx-4090", "jetson-agx-orin-64gb"])
# A dense model, a mixture, a latent one, a windowed one, a head, and one without layers.
MODELS = st.sampled_from(
    ["llama-3.1-8b", "mixtral-8x7b", "deepseek-v3", "gemma-2-9b", "eagle3-llama-3.1-8b", "medusa-vicuna-7b"]
)
RUNTIMES = st.sampled_from(["graph", "eager"])
COUNT = st.integers(1, 300)


def priced(device: str | HardwareProfile, model: str, runtime: str = "graph", tp: int = 1, **more: Any) -> PassCost:
    hardware = load_hardware(device) if isinstance(device, str) else device
    return roofline_cost(hardware, {"target": load_model(model)}, cast(Runtime, runtime), tp, **more)


def on_two(model: str, roofline: Roofline) -> PassCost:
    """Passes of a model on two devices."""
    return PassCost({"target": load_model(model)}, roofline, class_of_params(roofline.params), tp=2)


def decode(new: Any = 1, context: Any = 500, seqs: Any = 1) -> Pass:
    return Pass("target", "verify", new, context, seqs)


def faster(hardware: HardwareProfile, *, bandwidth: float = 1.0, peak: float = 1.0) -> HardwareProfile:
    """The same device with its bandwidth and its peaks multiplied."""
    memory = hardware.mem_bw_bytes_per_s
    peaks = hardware.peak_flops_per_s.items()
    return hardware.model_copy(
        update={
            "mem_bw_bytes_per_s": memory.model_copy(update={"value": memory.value * bandwidth}),
            "peak_flops_per_s": {d: f.model_copy(update={"value": f.value * peak}) for d, f in peaks},
        }
    )


def scaled_params(params: CostParams, log_step: float, **powers: int) -> CostParams:
    """``params`` with each named one multiplied by exp(power * log_step)."""
    changes = {}
    for name, power in powers.items():
        spread = getattr(params, name)
        changes[name] = spread.model_copy(update={"value": spread.value * math.exp(power * log_step)})
    return params.model_copy(update=changes)


def test_a_gemm_by_hand() -> None:
    """1000 x 1000 weights in bf16 and one token on a device of 2 TB/s x 0.5 and 100 TFLOP/s x 0.5, 1 us per launch.

    2e6 + 4e3 bytes at 1e12 B/s: 2.004 us. 2e6 FLOP at 5e13 FLOP/s: 0.04 us. Sharp corner: the larger of the two.
    """
    base = load_hardware("a100-80gb-sxm")
    figure = base.mem_bw_bytes_per_s
    device = base.model_copy(
        update={
            "mem_bw_bytes_per_s": figure.model_copy(update={"value": 2e12}),
            "peak_flops_per_s": {"bf16": figure.model_copy(update={"value": 100e12})},
        }
    )
    half = {"value": 0.5, "log_sd": 0.1, "source": "made up for the test"}
    known = transferred_params(device, "graph").model_dump()
    params = CostParams.model_validate(
        known | {"mem_efficiency": half, "compute_efficiency": half, "launch_s": half | {"value": 1e-6}}
    )
    op = Gemm(1, n=1000, k=1000, dtype="bf16", weight_bits=16)
    sharp, smooth = Roofline(device, params, sharp=True).price(op), Roofline(device, params).price(op)
    assert dict(zip(BOUNDS, sharp.by_bound, strict=True)) == pytest.approx(
        {"memory": 2.004e-6, "compute": 0, "launch": 1e-6, "link": 0, "host": 0, "measured": 0}
    )
    assert smooth.time_s == pytest.approx(1e-6 + (2.004e-6**4 + 0.04e-6**4) ** 0.25)
    many = Gemm(1000, n=1000, k=1000, dtype="bf16", weight_bits=16)  # 2e9 FLOP: 40 us; 2e6 + 4e6 bytes: 6 us
    assert Roofline(device, params, sharp=True).price(many).time_s == pytest.approx(41e-6)


@given(m=st.floats(1, 1e5), device=DEVICES)
def test_the_sharp_corner_is_the_larger_and_the_smooth_one_lies_above(m: float, device: str) -> None:
    hardware = load_hardware(device)
    params = transferred_params(hardware, "graph")
    op = Gemm(m, n=4096, k=4096, dtype="bf16", weight_bits=16)
    sharp, smooth = Roofline(hardware, params, sharp=True), Roofline(hardware, params)
    memory_s, compute_s = op.bytes / sharp.mem_bw_bytes_per_s, op.flops / sharp.flops_per_s("bf16")
    body = sharp.price(op).time_s - params.launch_s.value
    assert body == pytest.approx(max(memory_s, compute_s))
    assert 1 - 1e-9 <= (smooth.price(op).time_s - params.launch_s.value) / body <= 2**0.25 + 1e-9  # worst where equal


@settings(max_examples=60, deadline=None)
@given(device=DEVICES, model=MODELS, runtime=RUNTIMES, new=COUNT, seqs=COUNT, factor=st.floats(1, 100))
def test_a_faster_device_is_never_slower(
    device: str, model: str, runtime: str, new: int, seqs: int, factor: float
) -> None:
    base = load_hardware(device)
    params = transferred_params(base, cast(Runtime, runtime))
    work = decode(new, 500, seqs)
    now = priced(base, model, params=params).price(work).time_s
    for better in (faster(base, bandwidth=factor), faster(base, peak=factor)):
        assert priced(better, model, params=params).price(work).time_s <= now * (1 + 1e-12)


@settings(max_examples=60, deadline=None)
@given(device=DEVICES, model=MODELS, runtime=RUNTIMES, new=COUNT, context=st.integers(0, 9000), seqs=COUNT, more=COUNT)
def test_more_work_is_never_quicker(
    device: str, model: str, runtime: str, new: int, context: int, seqs: int, more: int
) -> None:
    cost = priced(device, model, runtime)
    now = cost.price(decode(new, context, seqs)).time_s
    for work in (
        decode(new + more, context, seqs),
        decode(new, context + more, seqs),
        decode(new, context, seqs + more),
    ):
        assert cost.price(work).time_s >= now * (1 - 1e-12)


@settings(max_examples=40, deadline=None)
@given(
    model=st.sampled_from(["llama-3.1-8b", "mixtral-8x7b", "gemma-2-9b"]), new=COUNT, seqs=COUNT, sharp=st.booleans()
)
def test_shares_sum_to_the_time_and_are_its_derivatives(model: str, new: int, seqs: int, sharp: bool) -> None:
    """Each share of ``by_bound`` is d time / d log(its multiplier), here by central differences of 1e-5."""
    hardware, work, step = load_hardware("h100-sxm"), decode(new, 500, seqs), 1e-5
    params = transferred_params(hardware, "graph")

    def time_s(by: CostParams) -> float:
        return float(on_two(model, Roofline(hardware, by, sharp)).price(work).time_s)

    found = on_two(model, Roofline(hardware, params, sharp)).price(work)
    assert found.by_bound.sum() == pytest.approx(float(found.time_s))
    powers = {
        "memory": {"mem_efficiency": -1},
        "compute": {"compute_efficiency": -1},
        "launch": {"launch_s": 1},
        "link": {"allreduce_s": 1, "link_efficiency": -1},
    }
    for bound, power in powers.items():
        up, down = (time_s(scaled_params(params, sign * step, **power)) for sign in (1, -1))
        share = found.by_bound[BOUNDS.index(bound)]
        assert (up - down) / (2 * step) == pytest.approx(share, rel=1e-4, abs=1e-6 * float(found.time_s))


@pytest.mark.parametrize("sharp", [True, False])
@pytest.mark.parametrize("runtime", ["graph", "eager"])
def test_a_sweep_is_its_elements(sharp: bool, runtime: Runtime) -> None:
    """Axes that sweep give, to the last bits, what each element gives alone; groups stay on the last axis."""
    hardware = load_hardware("h100-sxm")
    roofline = Roofline(hardware, transferred_params(hardware, runtime), sharp)
    cost = on_two("mixtral-8x7b", roofline)
    new = np.array([1, 5, 64, 512])[:, None, None]
    context = np.array([[0, 100], [3000, 10], [9000, 9000]])[None]
    seqs = np.array([3, 17])
    sweep = cost.price(decode(new, context, seqs))
    assert sweep.by_bound.shape == (4, 3, len(BOUNDS))
    for i in range(4):
        for j in range(3):
            alone = cost.price(decode(new[i, 0], context[0, j], seqs))
            for got, want in ((sweep.by_bound, alone.by_bound), (sweep.flops, alone.flops), (sweep.bytes, alone.bytes)):
                np.testing.assert_allclose(got[i, j], want, rtol=1e-12)
            assert sweep.bound[i, j] == alone.bound


def test_groups_may_be_written_apart() -> None:
    """Two groups of 3 and 2 sequences cost what five groups of one do."""
    cost = priced("a100-80gb-sxm", "llama-3.1-8b")
    grouped = cost.price(decode([1, 5], [100, 2000], [3, 2]))
    apart = cost.price(decode([1, 1, 1, 5, 5], [100, 100, 100, 2000, 2000]))
    assert grouped.time_s == pytest.approx(float(apart.time_s))
    assert (grouped.flops, grouped.bytes) == pytest.approx((float(apart.flops), float(apart.bytes)))


def test_no_sequences_cost_what_weights_and_launches_do() -> None:
    found = priced("h100-sxm", "llama-3.1-8b").price(decode(1, 0, 0))
    assert np.isfinite(found.by_bound).all()
    assert found.flops == 0


def test_tensor_parallel_adds_link_time_and_needs_a_link() -> None:
    """64 all-reduces of 8 kB over NVLink: 64 (6 us + 8192 B x 1.5 / (0.75 x 450 GB/s)) = 0.386 ms, and launches."""
    work = decode(1, 500)
    alone, shared = priced("h100-sxm", "llama-3.1-8b").price(work), priced("h100-sxm", "llama-3.1-8b", tp=4).price(work)
    link = BOUNDS.index("link")
    assert alone.by_bound[link] == 0
    assert shared.by_bound[link] == pytest.approx(64 * (6e-6 + 8192 * 1.5 / (0.75 * 450e9)))
    assert shared.by_bound[BOUNDS.index("launch")] > alone.by_bound[BOUNDS.index("launch")]
    assert alone.time_s / 4 < shared.time_s < alone.time_s
    with pytest.raises(InputError, match=r"tp: must be 1: jetson-agx-orin-64gb has no link"):
        priced("jetson-agx-orin-64gb", "llama-3.1-8b", tp=2)
    with pytest.raises(InputError, match=r"tp: must be >= 1, got 0"):
        priced("h100-sxm", "llama-3.1-8b", tp=0)
    with pytest.raises(InputError, match=r"tp: must divide the 32 attention heads of llama-3.1-8b, got 3"):
        priced("h100-sxm", "llama-3.1-8b", tp=3)


@settings(max_examples=60, deadline=None)
@given(new=COUNT, seqs=COUNT, model=st.sampled_from(["llama-68m", "vicuna-7b", "vicuna-33b"]))
def test_an_eager_pass_lasts_as_long_as_the_slower_of_host_and_device(new: int, seqs: int, model: str) -> None:
    """0.55 ms of host per layer; the same pass without it is the device's time."""
    hardware = load_hardware("a100-80gb-sxm")
    eager = transferred_params(hardware, "eager")
    assert eager.layer_s is not None
    work = decode(new, 500, seqs)
    device_s = priced(hardware, model, params=eager.model_copy(update={"layer_s": None})).price(work).time_s
    found = priced(hardware, model, params=eager).price(work)
    host_s = eager.layer_s.value * load_model(model).num_layers
    assert found.time_s == pytest.approx(max(host_s, float(device_s)))
    assert (found.bound == "host") == (host_s > device_s)


def test_host_work_and_transfers() -> None:
    graph, eager = priced("h100-sxm", "llama-3.1-8b"), priced("h100-sxm", "llama-3.1-8b", "eager")
    for kind in ("step", "round", "draft"):
        assert str(graph.price(HostWork(kind)).bound) == "host"  # type: ignore[arg-type]
        assert eager.price(HostWork(kind)).time_s > graph.price(HostWork(kind)).time_s  # type: ignore[arg-type]
    with pytest.raises(InputError, match="transfer"):
        graph.price(Transfer(1e6))


def test_arithmetic_follows_the_device() -> None:
    """fp8 weights multiply in fp8 on an H100 and in bf16 on an A100, whose tensor cores have none; int4 is widened."""
    h100, a100, v100 = (load_hardware(name) for name in ("h100-sxm", "a100-80gb-sxm", "v100-sxm-32gb"))
    assert [math_dtype("fp8", device) for device in (h100, a100, v100)] == ["fp8", "bf16", "fp16"]
    assert [math_dtype("int4", device) for device in (h100, v100)] == ["bf16", "fp16"]
    assert [math_dtype("int8", a100), math_dtype("fp32", a100)] == ["int8", "fp32"]
    model = load_model("llama-3.1-8b")
    costs = [roofline_cost(h100, {"target": quantized(model, w)}) for w in ("bf16", "fp8", "int4")]
    one, many = ([cost.price(decode(m, 500)).time_s for cost in costs] for m in (1, 8192))
    assert one[0] > one[1] > one[2]  # fewer bytes
    assert many[0] == pytest.approx(many[2], rel=0.02)  # the same arithmetic
    assert many[1] < 0.65 * many[0]


def test_intervals_share_what_is_shared() -> None:
    """Two passes bound by the same memory: each is uncertain, their ratio hardly."""
    cost = priced("l4", "llama-3.1-8b")
    one, five = cost.price(decode(1)), cost.price(decode(5))
    assert float(one.log_variance(cost.log_sd)) ** 0.5 == pytest.approx(
        0.12, rel=0.1
    )  # the spread of an unfitted device
    assert float(five.log_ratio_variance(one, cost.log_sd)) ** 0.5 < 0.002


def test_single_operations() -> None:
    hardware = load_hardware("h100-sxm")
    roofline = Roofline(hardware, transferred_params(hardware, "graph"))
    norm = roofline.price(Elementwise(num_bytes=1e9))
    assert norm.flops == 0
    assert norm.time_s == pytest.approx(2.5e-6 + 1e9 / (3352e9 * 0.87))
    reduce: Cost = roofline.price(AllReduce(np.array([0.0, 1e6]), num_devices=2))
    assert reduce.time_s[1] - reduce.time_s[0] == pytest.approx(1e6 / (0.75 * 450e9))
