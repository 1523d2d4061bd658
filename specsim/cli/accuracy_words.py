"""What the accuracy page says around its tables, and the targets that it is held to."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

UNSEEN: Final = ("unseen shapes", "unseen models", "unseen head configurations", "unseen sizes")
UNSEEN_GPU: Final = "unseen GPU"
FROM_MEMORY: Final = "unseen GPU, weights from memory"


class Target(NamedTuple):
    """What was asked for, the most that the mean error may be, and the row of the page that answers."""

    what: str
    most: float
    row: dict[str, Any]
    note: str = ""


TARGETS: Final = (
    Target(
        "dense layers, all dtypes, m <= 512, shapes never seen",
        0.07,
        {"operator": "gemm", "split": "unseen shapes", "tokens": "small"},
        "4.5 % with a learned residual",
    ),
    Target(
        "layers of real models (kernels of 2024), m <= 512, models never seen",
        0.07,
        {"operator": "layer gemm", "split": "unseen models", "tokens": "small"},
    ),
    Target(
        "decode attention, head configurations never seen",
        0.07,
        {"operator": "attention_decode", "split": "unseen head configurations"},
        "2.4 % with a learned residual",
    ),
    Target(
        "a GPU never seen, bf16 dense layers, m <= 512, weights from memory",
        0.06,
        {"operator": "gemm", "split": FROM_MEMORY, "by": "dtype", "group": "bfloat16", "tokens": "small"},
    ),
    Target(
        "served dense models, time per output token, H100 and H200, models never seen",
        0.08,
        {"operator": "serving, dense", "split": "served, unseen models"},
    ),
    Target(
        "the same, of an engine that serves another model elsewhere",
        0.08,
        {"operator": "serving, dense", "split": "served, unseen models of an engine"},
    ),
)
COVERED: Final = (
    ("90 % intervals, shapes never seen, all operators", UNSEEN, 0.85, 0.95),
    ("90 % intervals, GPUs never seen, all operators", (UNSEEN_GPU,), 0.80, 0.97),
)
HEAD: Final = """\
# Accuracy

How far predicted times of single operators are from measured ones. `specsim accuracy --data DIR` writes this page
from the measurements; `specsim accuracy --table FILE` judges any other table. The measurements (aiconfigurator's
kernel tables, Vidur's layer profiles) are not part of this repository.

Errors are absolute, relative to the measured time. Bias is the mean signed error: above zero, predictions are too
slow. *Unseen* means left out by structure: whole values of n and k, whole head configurations, whole models, whole
GPUs, never rows at random; each of the folds is judged by an interval made from the other folds. *Seen* means the
bundled fits on the rows that they were made of. All figures are of single operators in loop benchmarks, weighted by
rows: a row that several folds leave out counts in each. The tables hold many rows of the same shape at many token
counts, and a whole model is another question.

Two things keep the page at minutes: its dense-layer fits are made from 700 rows each, drawn with a fixed seed (the
bundled ones from 2000), and the other operators' from at most 800 a fold. All rows left out are judged, but for GPUs
never seen, where operators other than dense layers are judged on at most 4000 rows a fit.

## Targets, and what was reached
"""
ANALYTIC: Final = """\
No residual is shipped: every figure is that of the analytic form alone. Whole passes of consumer and edge GPUs
are not on this page.

![mean and median error by operator](images/accuracy_operators.png)
"""
TOKENS: Final = """\

## By number of tokens

Tokens of all sequences together. Dense layers past 512 weigh less in the fits: speculative decoding lives below.

![mean error of dense layers on shapes never seen, by tokens and GPU](images/accuracy_tokens.png)
"""
GPU: Final = """\

## GPUs never seen

Each GPU predicted from the other GPUs' fits and its datasheet. *Weights from memory* leaves out rows whose weights
stay in the L2 of a loop benchmark, which no model does. H100 and H200 differ in their memory alone and predict each
other, which flatters them and every pooled figure; A100 and RTX PRO 6000 show better what a new architecture may get,
and there intervals can miss by far. The bundled interval for an architecture without any fit of attention, experts,
all-reduce or element-wise operations is at least 0.5 in log time.
"""
SERVED_SPLITS: Final = (
    "served, unseen models",
    "served, unseen models of an engine",
    "served, unseen GPU",
    "served, unseen numbers of devices",
    "served, seen",
)
SERVED: Final = """\

## Served models

Time per output token (*serving*) and to the first token (*serving ttft*) of whole servers on H100 and H200, from the
configuration alone: operators as fitted to their own tables, a closed loop's steady state, and nine numbers by engine
and version for what servers add (`hwprofiles/serving.json`). Those numbers are fitted without what is left out; the
operators' fits are not made anew. All dense rows of a campaign are of one model, so a model left out takes its campaign
with it, and in *unseen models* all of SGLang or vLLM: their numbers are then those of other engines. Prompts and
answers of InferenceMAX have 0.9 of their nominal length. Left out as unexplained: Llama-3.1-8B-Instruct-FP8 under vLLM
0.12.0 (its prompts take less than FP8 kernels need) and gpt-oss under vLLM with 512 clients. Time to the first token
depends on how clients start and on response streams that no configuration states: read it as an order of magnitude.
Experts (*serving, experts*) have kernels and routing that the operators' tables hardly cover.
"""
FLOOR: Final = """\
## Noise floor

The README of the measurements gives what measuring again changes: bf16 dense layers about 2 % with the same engine, 5
to 9 % with another version of its libraries; fp8 differs by 30 to 90 % between engines, whose kernels differ. No fit
can be closer to a new measurement than that. Layer profiles have a resolution of 1 us, 0.5 after their median: coarse
for small operators.
"""
MISSING: Final = """\
## What to make of it

- A group whose error is far above the others' is more likely a kernel whose rules the formula does not have than
  noise; its interval is as wide.
- Experts' rows of new kernels on one GPU only (nvfp4, mxfp4) have too few models for a sound judgement of unseen
  ones.
- One interval serves all sizes of a kernel, so it is too wide at some numbers of tokens and too narrow at others; the
  table by tokens shows where.
- Eager launches carry the host of the machine that measured them.
- Several query tokens against a cache (verification) have a few public rows only, in `attention_verify.csv`; none was
  fitted.
"""
