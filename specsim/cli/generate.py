"""``specsim generate``: decode one prompt for real, with speculation, and say what each round did."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from specsim.cli.output import AsJson, print_json
from specsim.errors import InputError

if TYPE_CHECKING:
    from specsim.tree import DraftTree

Target = Annotated[Path | None, typer.Option(help="Checkpoint of a Llama; the shipped one where left out.")]
Draft = Annotated[Path | None, typer.Option(help="Checkpoint of its draft, with the same vocabulary.")]
Prompt = Annotated[str, typer.Option(help="Text to continue.")]
DraftLen = Annotated[int | None, typer.Option(help="Draft this many tokens, one after another; 0 is plain decoding.")]
Widths = Annotated[str | None, typer.Option(help="A tree by children per node and depth, for instance 3,2,1.")]
Tokens = Annotated[int, typer.Option(min=1, help="Tokens to decode at least.")]
Temperature = Annotated[float, typer.Option(help="0 decodes greedily.")]
Seed = Annotated[int, typer.Option(help="Of sampling.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, or any other device of your torch.")]
Dtype = Annotated[
    str, typer.Option(help="fp32, fp64 or bf16; below fp32 greedy output may differ from plain decoding.")
]
Records = Annotated[Path | None, typer.Option(help="Append a record of every round to this JSON-lines file.")]


def generate(
    prompt: Prompt = "def ",
    draft_len: DraftLen = None,
    widths: Widths = None,
    tokens: Tokens = 64,
    temperature: Temperature = 0.0,
    target: Target = None,
    draft: Draft = None,
    device: Device = "cpu",
    dtype: Dtype = "fp32",
    seed: Seed = 0,
    records: Records = None,
    as_json: AsJson = False,
) -> None:
    """Continue a prompt with the target's own distribution, faster; print the text and what speculation did."""
    from specsim.executor.generate import Generation, generate_text, load_target, model_drafter
    from specsim.executor.method import Method, Sampling, lossless_rule
    from specsim.executor.session import TINY

    if (target is None) != (draft is None):
        raise InputError("draft", "must be given together with the target")
    target_dir, draft_dir = target or TINY / "target", draft or TINY / "draft"
    tree = tree_from(draft_len, widths, default=4)
    method = Method(*lossless_rule(tree, temperature), Sampling(temperature))
    model = load_target(target_dir, dtype, device)
    drafter = model_drafter(model, target_dir, draft_dir)
    done = generate_text(Generation((prompt,), method, tokens, seed), model, drafter, target_dir, records)
    if as_json:
        print_json("generate", done)
        return
    typer.echo(done["text"])
    summary = (
        f"{done['configuration']}, {done['rule']}: {done['num_emitted']} tokens in {done['num_rounds']} rounds, "
        f"{done['tokens_per_round']:.2f} each; {done['tokens_per_s']:.0f} tokens/s"
    )
    typer.echo(summary, err=True)


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
