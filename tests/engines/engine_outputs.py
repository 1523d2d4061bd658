"""Outputs of engines in their published formats, with numbers made up for tests that agree with each other."""

from __future__ import annotations

import json
from typing import Any

LABELS = '{engine="0",model_name="meta-llama/Llama-3.1-8B-Instruct"'
HEAD = "# HELP vllm:spec_decode_num_drafts_total Number of spec decoding drafts.\n# TYPE x counter\n"


def vllm_metrics(
    drafts: float, drafted: float, positions: tuple[float, ...], generated: float = 0, engines: int = 1
) -> str:
    lines = [HEAD]
    for engine in range(engines):
        labels = LABELS.replace('"0"', f'"{engine}"')
        head = "vllm:spec_decode_num_"
        lines += [
            f"{head}drafts_total{labels}}} {drafts / engines}",
            f"{head}drafts_created{labels}}} 1.7952394495040417e+09",
            f"{head}draft_tokens_total{labels}}} {drafted / engines}",
            f"{head}accepted_tokens_total{labels}}} {sum(positions) / engines}",
            f"vllm:generation_tokens_total{labels}}} {generated / engines}",
        ]
        lines += [
            f'{head}accepted_tokens_per_pos_total{labels},position="{i}"}} {count / engines}'
            for i, count in enumerate(positions)
        ]
    return "\n".join([*lines, 'vllm:diffusion_num_drafts_total{engine="0"} 7', ""])


VLLM = vllm_metrics(1000, 3000, (800, 520, 330), generated=2900)
LLAMA_METRICS = """llamacpp:spec_decode_num_draft_tokens_total 1340
llamacpp:spec_decode_num_accepted_tokens_total 684
llamacpp:spec_decode_num_drafts_total 335
llamacpp:spec_decode_num_accepted_tokens_per_pos_total{position="0"} 267
llamacpp:spec_decode_num_accepted_tokens_per_pos_total{position="1"} 197
llamacpp:spec_decode_num_accepted_tokens_per_pos_total{position="2"} 126
llamacpp:spec_decode_num_accepted_tokens_per_pos_total{position="3"} 94
llamacpp:tokens_predicted_total 1019
"""
TRT_METRICS = """trtllm_spec_decode_num_draft_tokens_total{model_name="m"} 250
trtllm_spec_decode_num_accepted_tokens_total{model_name="m"} 120
trtllm_spec_decode_accepted_tokens_total{model_name="m",token_position="0"} 80
trtllm_spec_decode_accepted_tokens_total{model_name="m",token_position="1"} 30
trtllm_spec_decode_accepted_tokens_total{model_name="m",token_position="2"} 10
trtllm_spec_decode_drafted_tokens_total{model_name="m",token_position="0"} 100
trtllm_spec_decode_drafted_tokens_total{model_name="m",token_position="1"} 100
trtllm_spec_decode_drafted_tokens_total{model_name="m",token_position="2"} 50
"""
VLLM_LOG = """INFO 11-21 metrics.py] Avg prompt throughput: 10.0 tokens/s, Avg generation throughput: 265.0 tokens/s, Running: 8 reqs, Waiting: 2 reqs, GPU KV cache usage: 9.5%, Prefix cache hit rate: 0.5%
INFO 11-21 metrics.py] SpecDecoding metrics: Mean acceptance length: 2.65, Accepted throughput: 165.00 tokens/s, Drafted throughput: 300.00 tokens/s, Accepted: 1650 tokens, Drafted: 3000 tokens, Per-position acceptance rate: 0.800, 0.520, 0.330, Avg Draft acceptance rate: 55.0%
"""  # noqa: E501
VLLM_09_LOG = "SpecDecoding metrics: Draft acceptance rate: 38.8%, Mean acceptance length: 2.16, Accepted: 150 tokens, Drafted: 387 tokens, Per-position acceptance rate: 0.543, 0.357, 0.264\n"  # noqa: E501
VLLM_V0_LOG = "Speculative metrics: Draft acceptance rate: 0.655, System efficiency: 0.649, Number of speculative tokens: 4, Number of accepted tokens: 1735, Number of draft tokens: 2648, Number of emitted tokens: 2149.\n"  # noqa: E501
SGLANG_LOG = "[2026-11-21] Decode batch, #running-req: 8, #token: 10240, token usage: 0.02, accept len: 2.65, accept rate: 0.55, cuda graph: True, gen throughput (token/s): 812.11, #queue-req: 0\n"  # noqa: E501
LLAMA_LOG = "spec common_specu: statistics     draft-simple: #calls(b,g,a) =    1     32     32, #gen drafts =     32, #acc drafts =    24, #gen tokens =    126, #acc tokens =    62, #mean acc len = 2.94, #acc rate/pos = (0.750, 0.625, 0.312, 0.250), dur(b,g,a) = 0.001, 79.292, 0.013 ms\n"  # noqa: E501
LLAMA_OLD_LOG = "draft acceptance = 0.54671 (  158 accepted /   289 generated), mean len =  2.63\n"

PER_REQUEST: dict[str, Any] = {
    "metrics": {
        "time_to_first_token_ms": 41.2,
        "mean_itl_ms": 8.4,
        "speculative_decoding": {
            "mean_acceptance_length": 2.5,
            "acceptance_histogram": [2, 1, 1, 2],
            "num_spec_steps": 6,
            "num_accepted_draft_tokens": 9,
            "num_draft_tokens": 18,
            "num_spec_tokens": 3,
            "per_step_accepted": [0, 3, 1, 2, 3, 0],
            "per_step_drafted": [3, 3, 3, 3, 3, 3],
        },
    }
}
AIPERF = {
    "spec_decode_acceptance": {
        "engine": "vllm",
        "acceptance_histogram": {"0": 2, "1": 1, "2": 1, "3": 2},
        "num_accepted_draft_tokens": 9,
        "num_draft_tokens": 18,
        "num_spec_steps": 6,
        "num_spec_tokens": 3,
    }
}
VLLM_BENCH = {
    "date": "20261121-000000", "backend": "vllm", "request_rate": "inf", "max_concurrency": 8, "duration": 10.0,
    "completed": 20, "total_output_tokens": 2650, "output_throughput": 265.0, "mean_ttft_ms": 40.0, "mean_tpot_ms": 9.0,
    "spec_decode_acceptance_rate": 55.0, "spec_decode_acceptance_length": 2.65, "spec_decode_num_drafts": 1000,
    "spec_decode_draft_tokens": 3000, "spec_decode_accepted_tokens": 1650,
    "spec_decode_per_position_acceptance_rates": [0.8, 0.52, 0.33],
}  # fmt: skip
SGLANG_NAMES = (
    {"spec_num_correct_drafts": 9, "spec_num_proposed_drafts": 18, "spec_correct_drafts_histogram": [2, 1, 1, 2]},
    {"spec_accepted_drafts": 9, "spec_proposed_drafts": 18, "spec_accept_histogram": [2, 1, 1, 2]},
    {"spec_accept_token_num": 9, "spec_draft_token_num": 18, "spec_accept_histogram": [2, 1, 1, 2]},
    {},  # 0.5.5: rate, length and verify count alone
)
SPECULATIVE = {"batch_size": 8, "steps": 3, "topk": 1, "num_draft_tokens": 4, "acc_length": 2.65, "step_time": 0.01431, "speed": 185.185, "completion_tokens": 530.0}  # fmt: skip  # noqa: E501
TRT_ITERATION = {
    "iter": 812, "iterLatencyMS": 14.3, "numActiveRequests": 8, "numQueuedRequests": 0,
    "inflightBatchingStats": {"numScheduledRequests": 8, "numGenRequests": 8, "avgNumDecodedTokensPerIter": 2.6},
    "specDecodingStats": {
        "numDraftTokens": 24, "numAcceptedTokens": 13, "numRequestsWithDraftTokens": 8, "acceptanceLength": 2.625,
        "iterLatencyMS": 3.1, "draftOverhead": 0.217,
    },
}  # fmt: skip
LLAMA_TIMINGS = {"timings": {"prompt_n": 7, "prompt_ms": 3.92, "predicted_n": 96, "predicted_ms": 229.47, "draft_n": 126, "draft_n_accepted": 62}}  # fmt: skip  # noqa: E501
BATCHED_BENCH = {"n_kv_max": 2048, "pp": 16, "tg": 32, "pl": 4, "n_kv": 192, "t_pp": 0.010071, "t_tg": 0.200746, "speed_tg": 637.62}  # fmt: skip  # noqa: E501
LINES = {
    "vllm bench serve": VLLM_BENCH, "vllm per request": PER_REQUEST, "aiperf": AIPERF,
    "sglang bench_speculative": SPECULATIVE, "tensorrt-llm iteration": TRT_ITERATION,
    "llama.cpp timings": LLAMA_TIMINGS, "llama-batched-bench": BATCHED_BENCH,
}  # fmt: skip


def lines(*values: Any) -> str:
    return "".join(json.dumps(value) + "\n" for value in values)
