"""The command line. Each group of commands is a file; what they import that is heavy, they import when they run.

Exit codes: 0 when it answered, also that nothing is feasible; 2 on bad input (one line on stderr); 130 when
interrupted. A traceback is a bug.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any, Final

import typer

from specsim.cli import (
    accuracy,
    calibrate,
    cost,
    demo,
    diagnose,
    dynamic,
    export,
    generate,
    hardware,
    imports,
    limits,
    methods,
    model,
    plan,
    priors,
    replay,
    robust,
    serve,
    simulate,
    solve,
    tune,
    tune_joint,
    tune_load,
    tune_sweep,
    validate,
)
from specsim.errors import InfeasibleError, SpecsimError

BAD_INPUT: Final = 2
INTERRUPTED: Final = 130
BROKEN_PIPE: Final = 1
EXTRAS: Final = {
    "torch": "executor", "tokenizers": "executor", "safetensors": "executor", "matplotlib": "plots", "pyarrow": "data",
}  # fmt: skip
"""Which extra of the package brings a module that a plain install does not have."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
for group in (hardware.app, model.app):
    app.add_typer(group)
for command in (
    demo.demo,
    tune.tune,
    dynamic.dynamic,
    robust.robust,
    tune_load.tune_load,
    tune_joint.tune_joint,
    tune_sweep.sweep,
    export.export,
    diagnose.diagnose,
    simulate.simulate,
    serve.serve,
    plan.plan,
    solve.solve,
    cost.cost,
    calibrate.calibrate,
    validate.validate,
    accuracy.accuracy,
    generate.generate,
    methods.methods,
    limits.limits,
    priors.priors,
    replay.replay,
):
    app.command()(command)
app.command("import")(imports.imports)  # the word is Python's own

# Typer's own complaints (an unknown option, a missing argument). Its releases take this base from different places.
_UsageProblem: Final[Any] = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")


@app.callback(invoke_without_command=True)
def _top(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False
) -> None:
    """What speculative decoding will do to an LLM deployment, and which draft configuration does best."""
    if version:
        from specsim import __version__

        typer.echo(f"specsim {__version__}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main(args: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    >>> main(["hardware", "show", "h100-sxm", "--json"])  # doctest: +ELLIPSIS
    {
      "schema": "specsim.hardware.show/1",
      ...
    0
    """
    try:
        code = app(args=args, prog_name="specsim", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except InfeasibleError as error:
        return _infeasible(str(error), list(sys.argv[1:] if args is None else args))
    except SpecsimError as error:
        return _refuse(str(error))
    except _UsageProblem as error:
        return _refuse(error.format_message())
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except BrokenPipeError:  # the reader has seen enough, as `head` does; keep the interpreter's last flush quiet too
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except OSError as error:
        if error.filename is None:
            raise
        return _refuse(f"{error.filename}: {error.strerror}")
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if module not in EXTRAS:
            raise
        return _refuse(f"this command needs the extra `{EXTRAS[module]}`, which brings {module}: "
                       f"pip install 'specsim[{EXTRAS[module]}]'")  # fmt: skip


def _infeasible(reason: str, args: Sequence[str]) -> int:
    """A question that is well posed and has no feasible answer is answered so, by every command alike."""
    if "--json" in args:
        from specsim.cli.output import print_json

        print_json(args[0], {"status": "infeasible", "reason": reason})
    else:
        typer.echo(f"Infeasible: {reason}")
    return 0


def _refuse(message: str) -> int:
    """One line whatever the message holds: a key of a hostile file may hold line breaks and terminal controls."""
    line = " ".join(message.split())
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in line)
    typer.echo(f"error: {shown}", err=True)
    return BAD_INPUT
