"""What the accuracy page says around its tables, and the targets that it is held to."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

UNSEEN: Final = ("unseen shapes", "unseen models", "unseen head configurations", "unseen sizes")
CORRECTED: Final = ("unseen shapes, corrected", "unseen models, corrected", "unseen head configurations, corrected")
UNSEEN_GPU: Final = "unseen GPU"
FROM_MEMORY: Final = "unseen GPU, weights from memory"


class Target(NamedTuple):
    """What was asked for, the most that the mean error may be, and the row of the page that answers."""

    what: str
    most: float
    row: dict[str, Any]


TARGETS: Final = (
    Target(
        "dense layers, all dtypes, m <= 512, shapes never seen, formula alone",
        0.07,
        {"operator": "gemm", "split": "unseen shapes", "tokens": "small"},
    ),
    Target(
        "the same, with the learned correction",
        0.045,
        {"operator": "gemm", "split": "unseen shapes, corrected", "tokens": "small"},
    ),
    Target(
        "layers of real models (kernels of 2024), m <= 512, models never seen, formula alone",
        0.07,
        {"operator": "layer gemm", "split": "unseen models", "tokens": "small"},
    ),
    Target(
        "the same, with the learned correction",
        0.07,
        {"operator": "layer gemm", "split": "unseen models, corrected", "tokens": "small"},
    ),
    Target(
        "decode attention, head configurations never seen, formula alone",
        0.07,
        {"operator": "attention_decode", "split": "unseen head configurations"},
    ),
    Target(
        "the same, with the learned correction",
        0.024,
        {"operator": "attention_decode", "split": "unseen head configurations, corrected"},
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
    ("90 % intervals, shapes never seen, all operators, formulas alone", UNSEEN, 0.85, 0.95),
    ("the same, with the learned corrections", CORRECTED, 0.85, 0.95),
    ("90 % intervals, GPUs never seen, all operators pooled", (UNSEEN_GPU,), 0.80, 0.97),
)
HEAD: Final = """\
# Accuracy

How far predicted times of single operators are from measured ones. `specsim accuracy --data DIR` writes this page
from the measurements; `specsim accuracy --table FILE` judges any other table. The measurements (aiconfigurator's
kernel tables, Vidur's layer profiles) are not part of this repository.

Errors are absolute, relative to the measured time. Bias is the mean signed error: above zero, predictions are too
slow. *Unseen* means left out by structure: whole values of n and k, whole head configurations, whole models, whole
GPUs, never rows at random. Every value is left out by one of six folds (dense layers) or five (the others), and a row
is unseen where any of its values is; each fold is judged by intervals made from the other folds. *Corrected* means with
the learned correction on top of the formula: both are made anew for every fold, from the rows that it keeps. *Seen*
means the bundled fits on the rows that they were made of. All figures are of single operators in loop benchmarks,
weighted by rows: a row that two folds leave out counts in each. The tables hold many rows of the same shape at many
token counts, and a whole model is another question.

Three things keep the page at minutes: formulas of a fold are made from 1000 rows of dense layers, drawn with a fixed
seed (the bundled ones from 2000), and from at most 800 of the other operators; and the kernel family of dense layers,
one of nine, is the bundled fit's. All rows left out are judged, but for GPUs never seen, where operators other than
dense layers are judged on at most 4000 rows a fit.

## Targets, and what was reached
"""
ANALYTIC: Final = """\
The corrections are small networks in `hwprofiles/residual.*.npz`, for kernels that were measured on the GPUs that were
measured; everywhere else the formula stands alone. They know shapes, tiles and caches but no bandwidth and no peak.
Measuring again changes bf16 dense layers by about 2 %: see the noise floor. Whole passes of consumer and edge
GPUs are not on this page.

![mean and median error by operator](images/accuracy_operators.png)
"""
TOKENS: Final = """\

## By number of tokens

Tokens of all sequences together. Dense layers past 512 weigh less in the fits: speculative decoding lives below.

![mean error of dense layers on shapes never seen, corrected, by tokens and GPU](images/accuracy_tokens.png)
"""
GPU: Final = """\

## GPUs never seen

Each GPU predicted from the other GPUs' fits and its datasheet, without corrections. *Weights from memory* leaves out
rows whose weights stay in the L2 of a loop benchmark, which no model does. H100 and H200 differ in their memory alone
and predict each other, which flatters them and every pooled figure; A100 and RTX PRO 6000 show better what a new
architecture may get, and there intervals can miss by far. The bundled interval for an architecture without any fit of
attention, experts, all-reduce or element-wise operations is at least 0.5 in log time.
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
- Intervals differ by ranges of tokens or bytes where a range has 200 rows, and not within a range.
- Corrections of dense layers extrapolate least well: the largest and smallest n and k are each left out once here.
- A layer whose weights no loop ever read from memory is not corrected when a model reads them from there.
- Eager launches carry the host of the machine that measured them.
- Several query tokens against a cache (verification) have a few public rows only, in `attention_verify.csv`; none was
  fitted.
"""
