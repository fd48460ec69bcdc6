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

RecipeArgument = Annotated[
    str | None, typer.Argument(help="Recipe file or built-in name.", metavar="[RECIPE]")
]
RecipeFlag = Annotated[str | None, typer.Option("--recipe", help="Recipe file.", metavar="PATH")]
DatasetFlag = Annotated[
    str | None,
    typer.Option("--dataset", help="Built-in recipe (`higfa recipes list`).", metavar="NAME"),
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
JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
QuietFlag = Annotated[bool, typer.Option("--quiet", help="No progress on stderr.")]


@dataclass(frozen=True)
class Choice:
    """Which recipe, with which changes, and where to."""

    ref: str
    builtin: bool
    overrides: tuple[str, ...] = ()
    workspace: Path | None = None
    device: str | None = None

    @property
    def flags(self) -> str:
        """The flags that make the same choice again."""
        words = ["--dataset" if self.builtin else "--recipe", self.ref]
        for override in self.overrides:
            words += ["--set", override]
        if self.workspace:
            words += ["--workspace", str(self.workspace)]
        if self.device:
            words += ["--device", self.device]
        return shlex.join(words)

    def context(self, quiet: bool = True, force: bool = False) -> Context:
        """Load the recipe. Raises UserError when it is not valid."""
        from higfa_cli.cli.output import TerminalProgress
        from higfa_cli.cli.quiet import silence_libraries
        from higfa_cli.recipe.load import load_recipe
        from higfa_cli.stages.context import make_context

        silence_libraries()
        overrides = [*self.overrides, *([f"run.device={self.device}"] if self.device else [])]
        loaded = load_recipe(self.ref, overrides)
        return make_context(loaded, self.workspace, TerminalProgress(quiet), force)


def choose(
    recipe: str | None,
    dataset: str | None,
    overrides: list[str] | None = None,
    workspace: Path | None = None,
    device: str | None = None,
    positional: str | None = None,
) -> Choice:
    """The recipe that the flags name. Raises UserError (exit code 2) unless it is exactly one."""
    from higfa_cli.recipe.builtin import builtin_text, is_builtin

    given = [ref for ref in (recipe, dataset, positional) if ref is not None]
    if len(given) != 1:
        problem = "choose one recipe" if len(given) > 1 else "no recipe chosen"
        raise UserError(
            f"{problem}: give a file, --recipe PATH or --dataset NAME (`higfa recipes list`)",
            exit_code=2,
        )
    if dataset is not None:
        builtin_text(dataset)
    builtin = dataset is not None or (is_builtin(given[0]) and "." not in given[0])
    return Choice(given[0], builtin, tuple(overrides or ()), workspace, device)


@dataclass(frozen=True)
class StageFlags:
    """The flags of every stage command."""

    positional: RecipeArgument = None
    recipe: RecipeFlag = None
    dataset: DatasetFlag = None
    set_: SetFlag = None
    workspace: WorkspaceFlag = None
    device: DeviceFlag = None
    force: ForceFlag = False
    dry_run: DryRunFlag = False
    as_json: JsonFlag = False
    quiet: QuietFlag = False

    @property
    def choice(self) -> Choice:
        """The recipe chosen."""
        return choose(
            self.recipe, self.dataset, self.set_, self.workspace, self.device, self.positional
        )


def with_stage_flags(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose first parameter is a `StageFlags`, with those flags spelled out for Typer."""
    own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
    hints = inspect.get_annotations(StageFlags, eval_str=True)
    shared = [
        inspect.Parameter(
            flag.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=flag.default,
            annotation=hints[flag.name],
        )
        for flag in fields(StageFlags)
    ]

    def spelled_out(**values: Any) -> None:
        flags = StageFlags(**{flag.name: values.pop(flag.name) for flag in fields(StageFlags)})
        command(flags, **values)

    parameters = [
        *(one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in own),
        *shared,
    ]
    spelled_out.__doc__ = command.__doc__
    spelled_out.__name__ = command.__name__
    spelled_out.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    spelled_out.__annotations__ = {one.name: one.annotation for one in parameters}
    return spelled_out
