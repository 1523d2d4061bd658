"""``specsim cost``: how long a pass takes, and what bounds it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from specsim.cli.output import AsJson, print_json, whole_numbers
from specsim.errors import InputError

if TYPE_CHECKING:
    from specsim.cost.model import PassCost
    from specsim.model import ModelSpec

MAX_PASSES: Final = 10_000


def cost(
    hardware: Annotated[str, typer.Option(help="A bundled device, or a .toml profile.")],
    target: Annotated[str, typer.Option(help="The target: a bundled model, or a config.json.")],
    draft: Annotated[str | None, typer.Option(help="A draft model or head: priced beside the target.")] = None,
    tokens: Annotated[str, typer.Option(help="New tokens per sequence: 1 decodes, more verify.")] = "1,2,4,8,16,32,64",
    batch: Annotated[str, typer.Option(help="Sequences in the pass.")] = "1",
    context: Annotated[str, typer.Option(help="Tokens that each sequence has in its cache.")] = "1024",
    tp: Annotated[int, typer.Option(help="Devices that share each model (tensor parallel).")] = 1,
    weights: Annotated[str | None, typer.Option(help="Store the target's weights in this dtype.")] = None,
    runtime: Annotated[str, typer.Option(help="graph (captured launches) or eager (Python launches each).")] = "graph",
    engine: Annotated[str, typer.Option(help="Whose kernels and captured sizes: vllm, sglang, trtllm or hf.")] = "",
    pricing: Annotated[str, typer.Option(help="fitted (kernels, where fitted) or roofline.")] = "fitted",
    ops: Annotated[bool, typer.Option("--ops", help="Also show each operation.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Draw the roofline into this .png or .svg file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Price passes of a target (and a draft): time with a 90 % interval, FLOPs, bytes, and what bounds it.

    Counts are per device. The time is that of the pass alone: an engine's step adds host work. Memory is what the
    whole deployment holds: all weights, and the cache at this batch and context.

    JSON: hardware, runtime, engine, pricing, tp, level, plot, passes[] of role, model, batch, context_tokens,
    new_tokens, time_s, time_low_s, time_high_s, flops, bytes, intensity_flops_per_byte, bound, by_bound_s{bound},
    memory_bytes, fits; with --ops also ops[] of name, runs, time_s, flops, bytes, bound.
    """
    from specsim.cli.cost_rows import price_passes
    from specsim.cli.cost_view import draw, show_tables
    from specsim.estimate import LEVEL
    from specsim.plots import check_plot_path

    if plot:
        check_plot_path(plot)
    priced = _cost_model(hardware, _models(target, draft, weights), runtime, tp, engine, pricing)
    passes = price_passes(priced, _sweep(batch, context, tokens, priced.models["target"]), with_ops=ops)
    if plot:
        draw(plot, priced, passes)
    if as_json:
        asked = {"runtime": runtime, "engine": engine, "pricing": pricing, "tp": tp, "level": LEVEL, "plot": plot}
        print_json("cost", {"hardware": priced.ops.hardware.name} | asked | {"passes": passes})
        return
    show_tables(priced, passes, runtime)
    if plot:
        typer.echo(f"Roofline drawn in {plot}")


def _models(target: str, draft: str | None, weights: str | None) -> dict[Any, ModelSpec]:
    from specsim.model import check_draft_fits, check_family, load_model, quantized

    spec = load_model(target)
    check_family("target", spec, None)
    if weights:
        spec = quantized(spec, weights)  # type: ignore[arg-type]  # refuses what is no dtype
    if draft is None:
        return {"target": spec}
    drafter = load_model(draft)
    check_draft_fits(spec, drafter)
    return {"target": spec, "draft": drafter}


def _sweep(batch: str, context: str, tokens: str, target: ModelSpec) -> list[tuple[int, int, int]]:
    """Every combination of batch, context and new tokens, within the model's longest context."""
    batches, contexts = whole_numbers("batch", batch, 1), whole_numbers("context", context, 0)
    news = whole_numbers("tokens", tokens, 1)
    num_passes = len(batches) * len(contexts) * len(news)
    if num_passes > MAX_PASSES:
        raise InputError("batch x context x tokens", f"must be at most {MAX_PASSES} passes", num_passes)
    longest = max(contexts) + max(news)
    if target.max_context_tokens is not None and longest > target.max_context_tokens:
        limit = f"must be <= {target.max_context_tokens} with the new tokens, the limit of {target.name}"
        raise InputError("context", limit, longest)
    return [(b, c, n) for b in batches for c in contexts for n in news]


def _cost_model(
    hardware: str, models: dict[Any, ModelSpec], runtime: str, tp: int, engine: str, pricing: str
) -> PassCost:
    from specsim.cost.model import pass_cost
    from specsim.hardware import load_hardware

    device = load_hardware(hardware)
    if runtime not in ("graph", "eager"):
        raise InputError("runtime", "must be graph or eager", runtime)
    if pricing not in ("fitted", "roofline"):
        raise InputError("pricing", "must be fitted or roofline", pricing)
    return pass_cost(device, models, runtime, tp, engine=engine, pricing=pricing)  # type: ignore[arg-type]  # checked
