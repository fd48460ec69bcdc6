"""Flags that several commands share, and the context that they make."""

from __future__ import annotations

import inspect
import shlex
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from higfa_cli.errors import UserError

if TYPE_CHECKING:
    from higfa_cli.stages.context import Context


def _refuse_recipe_flag(ctx: typer.Context, value: str | None) -> None:
    if value is not None:
        raise UserError(
            f"--recipe is no flag: the recipe is an argument, higfa {ctx.info_name} {value}",
            exit_code=2,
        )


RecipeArgument = Annotated[
    str | None, typer.Argument(help="Recipe file or built-in name.", metavar="RECIPE")
]
DatasetFlag = Annotated[
    str | None,
    typer.Option(
        "--dataset", help="Built-in recipe, instead of RECIPE; for scripts.", metavar="NAME"
    ),
]
SetFlag = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change a recipe key, e.g. sampling.steps=20.", metavar="KEY=VALUE"),
]
WorkspaceFlag = Annotated[
    Path | None,
    typer.Option("--workspace", help="Folder for artifacts, instead of the recipe's."),
]
DeviceFlag = Annotated[
    str | None, typer.Option("--device", help="auto, cpu, cuda, cuda:1 or mps.", metavar="DEVICE")
]
ForceFlag = Annotated[bool, typer.Option("--force", help="Run again although all is fresh.")]
DryRunFlag = Annotated[
    bool, typer.Option("--dry-run", help="Say what would be done, and write nothing.")
]
ArmFlag = Annotated[
    list[str] | None,
    typer.Option("--arm", help="Only this arm of the recipe (may be repeated).", metavar="NAME"),
]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
QuietFlag = Annotated[bool, typer.Option("--quiet", help="No progress on stderr.")]
_NoFlag = Annotated[str | None, typer.Option(hidden=True, callback=_refuse_recipe_flag)]


@dataclass(frozen=True)
class Choice:
    """Which recipe, with which changes, and where to."""

    ref: str
    overrides: tuple[str, ...] = ()
    workspace: Path | None = None
    device: str | None = None

    @property
    def words(self) -> str:
        """What to type after a command to make the same choice again."""
        words = [self.ref]
        for override in self.overrides:
            words += ["--set", override]
        if self.workspace:
            words += ["--workspace", str(self.workspace)]
        if self.device:
            words += ["--device", self.device]
        return shlex.join(words)

    def context(self, quiet: bool = True, force: bool = False) -> Context:
        """Load the recipe. Raises UserError when it is not valid."""
        from higfa_cli.cli.quiet import silence_libraries

        silence_libraries()
        from higfa_cli.cli.output import TerminalProgress
        from higfa_cli.recipe.load import load_recipe
        from higfa_cli.stages.context import make_context

        overrides = [*self.overrides, *([f"run.device={self.device}"] if self.device else [])]
        loaded = load_recipe(self.ref, overrides)
        return make_context(loaded, self.workspace, TerminalProgress(quiet), force)


@dataclass(frozen=True)
class RecipeFlags:
    """The flags of every command that reads a recipe."""

    ref: RecipeArgument = None
    dataset: DatasetFlag = None
    recipe: _NoFlag = None
    set_: SetFlag = None
    workspace: WorkspaceFlag = None
    device: DeviceFlag = None
    as_json: JsonFlag = False

    @property
    def choice(self) -> Choice:
        """The recipe chosen. Raises UserError (exit code 2) unless it is exactly one."""
        from higfa_cli.recipe.builtin import builtin_text

        refs = [ref for ref in (self.ref, self.dataset) if ref is not None]
        if len(refs) != 1:
            problem = "choose one recipe" if refs else "no recipe chosen"
            raise UserError(
                f"{problem}: give a file or a built-in name (`higfa recipes list`)", exit_code=2
            )
        if self.dataset is not None:
            builtin_text(self.dataset)
        return Choice(refs[0], tuple(self.set_ or ()), self.workspace, self.device)


@dataclass(frozen=True)
class StageFlags(RecipeFlags):
    """The flags of every command that runs stages."""

    force: ForceFlag = False
    dry_run: DryRunFlag = False
    quiet: QuietFlag = False


def spelled_out(command: Callable[..., None]) -> Callable[..., None]:
    """A command with the flags of its first parameter, a `RecipeFlags`, spelled out for Typer.

    A command without one is returned as it is.
    """
    first, *others = inspect.signature(command, eval_str=True).parameters.values()
    flags_type = first.annotation
    if not (isinstance(flags_type, type) and issubclass(flags_type, RecipeFlags)):
        return command
    hints = inspect.get_annotations(RecipeFlags, eval_str=True)
    hints |= inspect.get_annotations(flags_type, eval_str=True)
    shared = [
        inspect.Parameter(
            flag.name, first.KEYWORD_ONLY, default=flag.default, annotation=hints[flag.name]
        )
        for flag in fields(flags_type)
    ]

    def with_flags(**values: Any) -> None:
        flags = flags_type(**{flag.name: values.pop(flag.name) for flag in shared})
        command(flags, **values)

    # The recipe before other arguments, the command's own flags before those that all have.
    others = [other.replace(kind=first.KEYWORD_ONLY) for other in others]
    parameters = [shared[0], *others, *shared[1:]]
    with_flags.__doc__ = command.__doc__
    with_flags.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    with_flags.__annotations__ = {p.name: p.annotation for p in parameters}
    return with_flags
