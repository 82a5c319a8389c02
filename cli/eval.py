"""`memit eval`: write a dataset's records into a model and report how it fares before and after."""

from __future__ import annotations

import typer

from cli.dataclass_command import command_of
from cli.eval_capability import capability
from cli.eval_options import CapabilityOptions, CounterFactOptions, ZsreOptions
from cli.eval_run import evaluate

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    help="Measure edits as the field does, without a service.",
)
app.command("counterfact")(command_of(CounterFactOptions, evaluate))
app.command("zsre")(command_of(ZsreOptions, evaluate))
app.command("capability")(command_of(CapabilityOptions, capability))
