"""The command line `memit`."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

from cli import output
from cli.alias import alias
from cli.api_key import keyed
from cli.audit import app as audit_app
from cli.backup import backup
from cli.browse import activate, facts, versions
from cli.calibrate import calibrate
from cli.chat import chat
from cli.convert import convert
from cli.diff import diff
from cli.doctor import doctor
from cli.edit import edit, retract
from cli.errors import CommandFailed
from cli.eval import app as eval_app
from cli.export import export
from cli.generate import generate
from cli.import_version import import_version
from cli.keys import app as keys_app
from cli.prune import prune
from cli.rebase import rebase
from cli.serve import serve
from cli.top import top
from cli.train_mend import train_mend
from cli.webhooks import app as webhooks_app


class Commands(TyperGroup):
    """The commands; one that fails on purpose prints its message and ends with exit code 1."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        for number, argument in enumerate(args, start=1):
            # Python hands on bytes that are no UTF-8 as lone surrogates, which nobody can encode.
            if any("\ud800" <= character <= "\udfff" for character in argument):
                raise typer.BadParameter(f"argument {number} is not UTF-8: {argument!a}", ctx)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except CommandFailed as failed:
            output.say(output.messages(), f"error: {failed}", style="red")
            raise typer.Exit(1) from None


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    help="Keep a language model's facts current: edit, serve and take back.",
)
for alone in (serve, calibrate, convert, train_mend):
    app.command()(alone)
for command in (
    edit,
    generate,
    chat,
    versions,
    facts,
    retract,
    activate,
    alias,
    diff,
    rebase,
    export,
    doctor,
    prune,
    backup,
    top,
):
    app.command()(keyed(command))
app.command("import")(keyed(import_version))
app.add_typer(keys_app, name="keys")
app.add_typer(audit_app, name="audit")
app.add_typer(webhooks_app, name="webhooks")
app.add_typer(eval_app, name="eval")
