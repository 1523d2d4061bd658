"""What servers are told when they are started."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from specsim.documents import Document


class ServerConfig(Document):
    """How a replica fills its steps and its memory.

    Attributes:
        max_running: Most requests inside at a time.
        token_budget: Most tokens of a step, drafts and prompts together; what decoding leaves is for prompts.
        mixes: Whether prompts share the steps that decode (vLLM, TensorRT-LLM), or run in steps of their own before
            decoding goes on (SGLang).
        chunks: Whether prompts may be cut to the budget; whole ones that exceed it run alone.
        block_tokens: Tokens of a block of KV memory.
        kv_blocks: Blocks of KV memory; None: what the deployment's memory leaves.
        lookahead_tokens: Slots that each request keeps for its next drafts; None: as many as it may draft, or none
            where drafts are looked up.
        reserves: Whether a request is admitted only where its whole answer has room (TensorRT-LLM), so that none is
            ever preempted.
        preemption: What becomes of a request that memory runs out for: it is computed anew, or its cache is moved to
            the host and back.
        swap_bytes_per_s: Of such moves; needed by ``swap``.
        prefix_caching: Whether blocks of prompts that were seen before are found again.
        pipeline_parallel: Stages that the layers are spread over. As many batches are in flight, each a replica of its
            own with its share of the memory, taken as evenly filled; a step takes as long as on one stage, and the
            hops between.
        hop_s: Time of handing a batch to the next stage.
        token_s: Host time for each token that comes out, which the device waits for: sampling, detokenising, sending.
            Servers differ widely, so read it off a plain load test (fits to many of them: 12 us; one that shares its
            host with its clients: 65 us). A step is charged for the tokens that its rounds emit on average.
        max_waiting: A queue longer than this ends the run as unstable.
        until_s: The run ends at this time at the latest.
    """

    max_running: int = Field(256, ge=1, le=65_536)
    token_budget: int = Field(8192, ge=1, le=10**6)
    mixes: bool = True
    chunks: bool = True
    block_tokens: int = Field(16, ge=1, le=65_536)
    kv_blocks: int | None = Field(None, ge=1)
    lookahead_tokens: int | None = Field(None, ge=0, le=4096)
    reserves: bool = False
    preemption: Literal["recompute", "swap"] = "recompute"
    swap_bytes_per_s: float | None = Field(None, gt=0)
    prefix_caching: bool = True
    pipeline_parallel: int = Field(1, ge=1, le=64)
    hop_s: float = Field(0.0, ge=0)
    token_s: float = Field(0.0, ge=0, le=1)
    max_waiting: int = Field(100_000, ge=1)
    until_s: float | None = Field(None, gt=0)


class PrefillPool(Document):
    """Replicas that read prompts for others to go on: disaggregated prefill.

    A cache is sent when its prompt is read, whole, one after another from each replica, whose blocks it holds until it
    is sent. It is decoded once it has arrived and its replica has room for it; until then it waits beside that memory.

    Attributes:
        replicas: How many.
        link_bytes_per_s: That leave a replica, all of its devices together; None: at once.
        latency_s: Of each cache, beside its bytes.
        config: Of each of these replicas; None: that of the others.
    """

    replicas: int = Field(ge=1)
    link_bytes_per_s: float | None = Field(gt=0)
    latency_s: float = Field(0.0, ge=0)
    config: ServerConfig | None = None
