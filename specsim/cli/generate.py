"""``specsim generate``: decode one prompt for real, with speculation, and say what each round did."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from specsim.cli.output import AsJson, print_json
from specsim.errors import InputError

if TYPE_CHECKING:
    from specsim.executor.method import Method, Sampling
    from specsim.tree import DraftTree

Target = Annotated[Path | None, typer.Option(help="Checkpoint: Llama, Mistral, Qwen2 or Qwen3; else the shipped one.")]
Draft = Annotated[
    Path | None, typer.Option(help="What the drafter reads: a checkpoint, a head's folder, a list of layers.")
]
DrafterName = Annotated[
    str, typer.Option(help="model, eagle, medusa, skipped, lookup, recycling, lookahead or cascade.")
]
Prompt = Annotated[list[str] | None, typer.Option(help="Text to continue; several are decoded together.")]
DraftLen = Annotated[int | None, typer.Option(help="Draft this many tokens, one after another; 0 is plain decoding.")]
Widths = Annotated[str | None, typer.Option(help="A tree by children per node and depth, for instance 3,2,1.")]
Policy = Annotated[
    str | None, typer.Option(help="A tree that grows, for instance 'eagle2 top_k=4 depth=3 total_tokens=16'.")
]
RuleName = Annotated[str | None, typer.Option(help="Verification rule; the usual lossless one where left out.")]
DrawName = Annotated[
    str | None, typer.Option(help="Children of a static tree: top, sampled or sampled_with_replacement.")
]
Tokens = Annotated[int, typer.Option(min=1, help="Tokens to decode at least.")]
Temperature = Annotated[float, typer.Option(help="0 decodes greedily.")]
TopK = Annotated[int | None, typer.Option(help="Sample among this many tokens.")]
TopP = Annotated[float | None, typer.Option(help="Sample from the most probable tokens of this mass.")]
Stop = Annotated[list[str] | None, typer.Option(help="Text that ends a continuation; may be given several times.")]
Seed = Annotated[int, typer.Option(help="Of sampling.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, or any other device of your torch.")]
Dtype = Annotated[
    str, typer.Option(help="fp32, fp64 or bf16; below fp32 greedy output may differ from plain decoding.")
]
Records = Annotated[Path | None, typer.Option(help="Append a record of every round to this JSON-lines file.")]


def generate(
    prompt: Prompt = None,
    draft_len: DraftLen = None,
    widths: Widths = None,
    policy: Policy = None,
    rule: RuleName = None,
    draw: DrawName = None,
    drafter: DrafterName = "model",
    tokens: Tokens = 64,
    temperature: Temperature = 0.0,
    top_k: TopK = None,
    top_p: TopP = None,
    stop: Stop = None,
    target: Target = None,
    draft: Draft = None,
    device: Device = "cpu",
    dtype: Dtype = "fp32",
    seed: Seed = 0,
    records: Records = None,
    as_json: AsJson = False,
) -> None:
    """Continue a prompt with the target's own distribution, faster; print the text and what speculation did."""
    from specsim.executor.choose import drafter_named
    from specsim.executor.generate import Generation, generate_text, load_target
    from specsim.executor.method import Sampling
    from specsim.executor.session import TINY

    if draft is not None and target is None and drafter == "model":
        raise InputError("target", "must be given together with the draft")
    method = _method(draft_len, widths, policy, rule, draw, Sampling(temperature, top_k, top_p))
    wanted = Generation(tuple(prompt or ["def "]), method, tokens, seed, tuple(stop or ()))
    target_dir = target or TINY / "target"
    model = load_target(target_dir, dtype, device)
    chosen = None if method.is_plain else drafter_named(drafter, model, target_dir, draft, TINY)
    done = generate_text(wanted, model, chosen, target_dir, records)
    if as_json:
        print_json("generate", done)
        return
    for text in done["texts"]:
        typer.echo(text)
    summary = (
        f"{done['configuration']}, {done['rule']}: {done['num_emitted']} tokens in {done['num_rounds']} rounds, "
        f"{done['tokens_per_round']:.2f} each; {done['tokens_per_s']:.0f} tokens/s"
    )
    typer.echo(summary, err=True)


def _method(
    draft_len: int | None, widths: str | None, policy: str | None, rule: str | None, draw: str | None, law: Sampling
) -> Method:
    """The method that the options name; what they leave open is the usual lossless choice."""
    from specsim.decoding import StaticTree, TreePolicy
    from specsim.executor.choose import policy_from, usual_rule
    from specsim.executor.method import Method

    chosen: TreePolicy
    if policy is not None:
        for name, value in (("draft-len", draft_len), ("widths", widths), ("draw", draw)):
            if value is not None:
                raise InputError(name, "must be left out where policy is given", value)
        chosen, is_chain = policy_from(policy), False
    else:
        tree = tree_from(draft_len, widths, default=4)
        how = draw or ("top" if law.temperature == 0 or rule in ("greedy", "one_hot") else "sampled")
        chosen, is_chain = StaticTree(tree, how), tree.is_chain  # type: ignore[arg-type]
    name = rule or usual_rule(chosen.draw, is_chain, law.temperature)
    return Method(chosen, name, law)  # type: ignore[arg-type]


def tree_from(draft_len: int | None, widths: str | None, default: int | None = None) -> DraftTree:
    """The tree that ``--draft-len`` or ``--widths`` names."""
    from specsim.cli.output import whole_numbers
    from specsim.tree import DraftTree

    if draft_len is not None and widths is not None:
        raise InputError("widths", "must be left out where draft-len is given", widths)
    if widths is not None:
        return DraftTree.from_widths(tuple(whole_numbers("widths", widths, 1)))
    chosen = draft_len if draft_len is not None else default
    if chosen is None:
        raise InputError("draft-len", "give either it or widths")
    return DraftTree.chain(chosen)
