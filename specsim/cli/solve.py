"""``specsim solve``: search problems as data, for auto-tuners written in any language."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from specsim.documents import read_json
from specsim.errors import InputError


def solve(
    problem: Annotated[
        Path, typer.Argument(help="A JSON file with one problem or a list of them; - for standard input.")
    ],
) -> None:
    """Solve search problems given as data, exactly where that is possible, and say so with a certificate.

    A problem is {"family": NAME, "input": {...}}; docs/solve.md has the families. Prints one answer, or a list of them
    in order. An infeasible problem is an answer; a malformed one is not.
    """
    from specsim.search.exact.problems import read_problems
    from specsim.search.exact.solve import solve as answer_to

    data, name = (_standard_input(), "stdin") if str(problem) == "-" else (read_json(problem), problem.name)
    problems, many = read_problems(data, name)
    answers = [answer_to(one).as_dict() for _, one in problems]
    typer.echo(_written(answers if many else answers[0]))


def _standard_input() -> Any:
    try:
        return json.loads(sys.stdin.read())
    except (ValueError, RecursionError) as error:
        raise InputError("stdin", f"not valid JSON ({error})") from None


def _written(value: Any) -> str:
    """JSON with numbers at 17 significant digits, so that every program reads the same doubles."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(str(key))}: {_written(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_written(item) for item in value) + "]"
    if isinstance(value, float):
        return format(value, ".17g")
    return json.dumps(value)
