"""JSON that engines and their benchmarks write: one function per format, from a parsed value to observations.

Each takes one object and gives None where the object is not of its format, so that the reader can ask them in turn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from specsim.documents import parse
from specsim.engines.imports.observation import Observation
from specsim.errors import InputError

Data = Mapping[str, Any]


def vllm_bench(data: Data, where: str) -> Observation | None:
    """`vllm bench serve --save-result`; its acceptance rate is in percent, its positions are unconditional."""
    if "output_throughput" not in data or "total_output_tokens" not in data or "accept_length" in data:
        return None
    drafts, rates = data.get("spec_decode_num_drafts"), data.get("spec_decode_per_position_acceptance_rates")
    drafted = data.get("spec_decode_draft_tokens")
    positions = None
    if rates is not None and drafts is not None:
        positions = [_number(rate, f"{where}: spec_decode_per_position_acceptance_rates") * drafts for rate in rates]
    notes = []
    if data.get("dataset_name") in ("random", "random-ids") or "random" in str(data.get("label", "")):
        notes.append("random prompts give acceptance without meaning")
    return _observation(
        where,
        source="vllm bench serve",
        label=_label(data, "request_rate", "max_concurrency"),
        num_drafts=drafts,
        num_drafted=drafted,
        num_accepted=data.get("spec_decode_accepted_tokens"),
        accepted_by_position=positions,
        draft_len=_even(drafted, drafts),
        num_generated=data.get("total_output_tokens"),
        num_requests=data.get("completed"),
        num_running=data.get("max_concurrency"),
        tokens_per_s=data.get("output_throughput"),
        ttft_s=_ms(data.get("mean_ttft_ms")),
        tpot_s=_ms(data.get("mean_tpot_ms")),
        notes=notes,
    )


def per_request(data: Data, where: str) -> Observation | None:
    """vLLM's metrics of one response, and AIPerf's record of it: the histogram by accepted count, and every round."""
    timing = data.get("metrics") if isinstance(data.get("metrics"), Mapping) else {}
    of = timing.get("speculative_decoding") or data.get("spec_decode_acceptance")  # type: ignore[union-attr]
    if not isinstance(of, Mapping) or "num_spec_steps" not in of:
        return None
    histogram = of.get("acceptance_histogram")
    if isinstance(histogram, Mapping):  # AIPerf's is sparse, with keys of text
        counts = {_whole(key, f"{where}: acceptance_histogram"): value for key, value in histogram.items()}
        histogram = [counts.get(j, 0) for j in range(max(counts, default=0) + 1)]
    steps, accepted = of["num_spec_steps"], of.get("num_accepted_draft_tokens")
    positions = None if histogram is None else _survivors(histogram, steps, accepted, where)
    rounds, drafted_rounds = of.get("per_step_accepted"), of.get("per_step_drafted")
    return _observation(
        where,
        source="aiperf" if "spec_decode_acceptance" in data else "vllm per request",
        num_drafts=steps,
        num_drafted=of.get("num_draft_tokens"),
        num_accepted=accepted,
        accepted_by_position=positions,
        accepted_per_round=None if rounds is None else [rounds],
        drafted_per_round=None if rounds is None or drafted_rounds is None else [drafted_rounds],
        draft_len=_even(of.get("num_draft_tokens"), steps),
        num_requests=1,
        num_generated=of.get("completion_tokens"),
        ttft_s=_ms(timing.get("time_to_first_token_ms")),  # type: ignore[union-attr]
        tpot_s=_ms(timing.get("mean_itl_ms")),  # type: ignore[union-attr]
    )


def sglang_request(data: Data, where: str) -> Observation | None:
    """SGLang's ``meta_info`` of one response, by its names of 0.5.5, 0.5.9, 0.5.14 and 0.5.23."""
    info = data.get("meta_info", data)
    if not isinstance(info, Mapping) or "spec_verify_ct" not in info:
        return None
    accepted = _first(info, "spec_num_correct_drafts", "spec_accepted_drafts", "spec_accept_token_num")
    drafted = _first(info, "spec_num_proposed_drafts", "spec_proposed_drafts", "spec_draft_token_num")
    histogram = _first(info, "spec_correct_drafts_histogram", "spec_accept_histogram")
    steps = info["spec_verify_ct"]
    if accepted is None and "completion_tokens" in info:
        accepted = max(_number(info["completion_tokens"], where) - 1 - _number(steps, where), 0)  # one of the prefill
    positions = None if not histogram else _survivors(histogram, steps, accepted, where)
    return _observation(
        where,
        source="sglang per request",
        num_drafts=steps,
        num_drafted=drafted,
        num_accepted=accepted,
        accepted_by_position=positions,
        draft_len=None if drafted is None else _even(drafted, steps),
        num_generated=info.get("completion_tokens"),
        num_requests=1,
    )


def sglang_server_info(data: Data, where: str) -> list[Observation] | None:
    """`GET /server_info`: the lifetime's accepted length, and the time of steps by running requests if recorded."""
    states = data.get("internal_states")
    state = states[0] if isinstance(states, Sequence) and states and isinstance(states[0], Mapping) else data
    times = state.get("step_time_dict")
    if not isinstance(times, Mapping) and "avg_spec_accept_length" not in state:
        return None
    length, source = state.get("avg_spec_accept_length"), "sglang server info"
    found = []
    if length is not None:
        tau = _number(length, f"{where}: avg_spec_accept_length")
        notes = ["a mean length without counts"]
        found.append(_observation(where, source=source, num_drafts=1, num_accepted=max(tau - 1, 0), notes=notes))
    for size, seconds in (times or {}).items():
        if not isinstance(seconds, Sequence) or not seconds:
            raise InputError(f"{where}: step_time_dict[{size}]", "must be a list of seconds", seconds)
        mean = sum(_number(s, f"{where}: step_time_dict[{size}]") for s in seconds) / len(seconds)
        running = _whole(size, where)
        found.append(_observation(where, source=source, label=f"{size} running", num_running=running, step_s=mean))
    return found


def sglang_speculative(data: Data, where: str) -> Observation | None:
    """A line of `bench_speculative.py`: step time (20th percentile) and accepted length by batch and tree."""
    if "acc_length" not in data or "step_time" not in data:
        return None
    steps, topk, nodes = (_whole(data[name], f"{where}: {name}") for name in ("steps", "topk", "num_draft_tokens"))
    batch, tau = _number(data["batch_size"], where), _number(data["acc_length"], where)
    tokens = _number(data.get("completion_tokens", 0), where) or batch
    rounds = tokens / max(tau, 1.0)
    is_plain = steps == 0
    return _observation(
        where,
        source="sglang bench_speculative",
        label=f"batch {batch:g}, steps {steps}, topk {topk}, {nodes} tokens",
        num_drafts=None if is_plain else rounds,
        num_drafted=None if is_plain else rounds * (nodes - 1),  # the root is counted in num_draft_tokens
        num_accepted=None if is_plain else rounds * max(tau - 1, 0),
        draft_len=None if is_plain else (steps if topk == 1 else nodes - 1),
        tree=topk > 1,
        num_running=batch,
        num_generated=tokens,
        step_s=data["step_time"],
        tokens_per_s=None if "speed" not in data else _number(data["speed"], where) * batch,
        notes=["step times are 20th percentiles"],
    )


def sglang_serving(data: Data, where: str) -> Observation | None:
    """A line of SGLang's `bench_serving`."""
    if "accept_length" not in data or "output_throughput" not in data:
        return None
    length, generated = data["accept_length"], data.get("total_output_tokens")
    tau = None if length is None else _number(length, f"{where}: accept_length")
    rounds = None if tau is None or generated is None else _number(generated, where) / max(tau, 1.0)
    return _observation(
        where,
        source="sglang bench_serving",
        label=_label(data, "request_rate", "max_concurrency"),
        num_drafts=rounds,
        num_accepted=None if rounds is None or tau is None else rounds * max(tau - 1, 0),
        num_generated=generated,
        num_requests=data.get("completed"),
        num_running=data.get("concurrency") or data.get("max_concurrency"),
        tokens_per_s=data["output_throughput"],
        ttft_s=_ms(data.get("mean_ttft_ms")),
        tpot_s=_ms(data.get("mean_tpot_ms")),
    )


def tensorrt_llm(data: Data, where: str) -> Observation | None:
    """One iteration of TensorRT-LLM's ``/metrics``: the only engine that says what part of a step drafts."""
    if "iterLatencyMS" not in data or "inflightBatchingStats" not in data:
        return None
    of, batch = data.get("specDecodingStats") or {}, data["inflightBatchingStats"]
    requests = of.get("numRequestsWithDraftTokens")
    drafted = of.get("numDraftTokens")
    return _observation(
        where,
        source="tensorrt-llm iteration",
        label=f"iteration {data.get('iter', '?')}",
        num_drafts=requests,
        num_drafted=drafted,
        num_accepted=of.get("numAcceptedTokens"),
        draft_len=_even(drafted, requests),
        num_running=batch.get("numGenRequests", data.get("numActiveRequests")),
        num_waiting=data.get("numQueuedRequests"),
        step_s=_ms(data["iterLatencyMS"]),
        draft_s=_ms(of.get("iterLatencyMS")),
    )


def llama_timings(data: Data, where: str) -> Observation | None:
    """``timings`` of a llama.cpp response. Rounds are not told: every round emits one token that was not drafted.

    The first token comes of the prompt, before any round, and is counted in ``predicted_n``, not in ``predicted_ms``.
    """
    timing = data.get("timings", data)
    if not isinstance(timing, Mapping) or "predicted_ms" not in timing or "predicted_n" not in timing:
        return None
    predicted = _number(timing["predicted_n"], f"{where}: predicted_n")
    drafted, accepted = timing.get("draft_n"), timing.get("draft_n_accepted")
    steps = None if accepted is None else max(predicted - 1 - _number(accepted, where), 0)
    spent = _ms(timing["predicted_ms"])
    return _observation(
        where,
        source="llama.cpp timings",
        num_drafts=steps,
        num_drafted=drafted,
        num_accepted=accepted,
        num_generated=predicted,
        num_requests=1,
        num_running=1,
        tpot_s=None if not predicted or spent is None else spent / predicted,
        ttft_s=_ms(timing.get("prompt_ms")),
        step_s=None if not steps or spent is None else spent / steps,
        notes=["rounds counted as generated less accepted: right where every step drafts"] if steps else [],
    )


def llama_batched_bench(data: Data, where: str) -> Observation | None:
    """A line of `llama-batched-bench --output-format jsonl`: the time of a step by its width."""
    if not {"pl", "tg", "t_tg"} <= data.keys():
        return None
    tokens = _number(data["tg"], f"{where}: tg")
    if not tokens:
        return None
    width = _number(data["pl"], f"{where}: pl")
    return _observation(
        where,
        source="llama-batched-bench",
        label=f"{width:g} parallel",
        num_running=width,
        step_s=_number(data["t_tg"], f"{where}: t_tg") / tokens,
        tokens_per_s=data.get("speed_tg"),
        context_tokens=_number(data.get("pp", 0), where) + tokens / 2,
    )


def transformers_rounds(data: Data, where: str) -> Observation | None:
    """Accepted and proposed per round, recorded by wrapping ``update_candidate_strategy`` of an assisted generation."""
    if not {"num_matches", "num_proposed"} <= data.keys():
        return None
    accepted, drafted = data["num_matches"], data["num_proposed"]
    return _observation(
        where,
        source="transformers",
        num_drafts=len(accepted),
        num_drafted=sum(drafted),
        num_accepted=sum(accepted),
        accepted_per_round=[accepted],
        drafted_per_round=[drafted],
        num_requests=1,
        num_running=1,
    )


READERS: Final = (
    per_request, sglang_request, sglang_speculative, sglang_serving, tensorrt_llm, llama_timings, llama_batched_bench,
    transformers_rounds, vllm_bench,
)  # fmt: skip


def observations_of(data: Any, where: str) -> list[Observation] | None:
    """What one JSON object holds, or None where it is of no known format.

    Raises:
        InputError: where it is of a known format, and a value of it is wrong.
    """
    if not isinstance(data, Mapping):
        return None
    try:
        several = sglang_server_info(data, where)
        if several is not None:
            return several
        found = (reader(data, where) for reader in READERS)
        return next(([one] for one in found if one is not None), None)
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError) as error:
        raise InputError(where, f"a value is not what its format says ({' '.join(str(error).split())[:120]})") from None


def _observation(where: str, **data: Any) -> Observation:
    return parse(Observation, {name: value for name, value in data.items() if value is not None}, where)


def _survivors(histogram: Sequence[Any], steps: Any, accepted: Any, where: str) -> list[float]:
    """Rounds that accepted at least 1, 2, ..., from rounds that accepted exactly 0, 1, 2, ..."""
    counts = [_number(count, f"{where}: acceptance_histogram") for count in histogram]
    if abs(sum(counts) - _number(steps, where)) > 1e-9:
        raise InputError(f"{where}: acceptance_histogram", f"must sum to the {steps} steps", sum(counts))
    total = sum(j * count for j, count in enumerate(counts))
    if accepted is not None and abs(total - _number(accepted, where)) > 1e-9:
        raise InputError(f"{where}: acceptance_histogram", f"must hold the {accepted} accepted tokens", total)
    return [sum(counts[j:]) for j in range(1, len(counts))]


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e300:
        raise InputError(where, "must be a number >= 0", str(value)[:60])
    return float(value)


def _whole(value: Any, where: str) -> int:
    text = str(value)
    if not (text.isdecimal() and len(text) < 9):
        raise InputError(where, "must be a whole number", text[:60])
    return int(text)


def _ms(value: Any) -> float | None:
    return None if value is None else _number(value, "milliseconds") / 1000


def _even(drafted: Any, drafts: Any) -> int | None:
    """Tokens per round where all rounds may have had as many."""
    if not drafts or drafted is None:
        return None
    each = _number(drafted, "drafted") / _number(drafts, "drafts")
    return round(each) if abs(each - round(each)) < 1e-9 and each < 100_000 else None


def _first(data: Data, *names: str) -> Any:
    return next((data[name] for name in names if data.get(name) is not None), None)


def _label(data: Data, *names: str) -> str:
    return ", ".join(f"{name} {data[name]}" for name in names if data.get(name) is not None)
