"""Flags that several commands share, and the context that they make."""

from __future__ import annotations

import inspect
import os
import shlex
import warnings
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self, get_type_hints

import typer

from higfa_cli.errors import UserError
from higfa_cli.recipe.builtin import builtin_text

if TYPE_CHECKING:
    from higfa_cli.stages.context import Context


# What the libraries read when they are imported; a user's own setting wins.
_QUIET = {
    "TQDM_DISABLE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_VERBOSITY": "critical",
    "TRANSFORMERS_VERBOSITY": "error",
    "DIFFUSERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
    # Looking for plug-ins reads the metadata of every installed package.
    "PYDANTIC_DISABLE_PLUGINS": "1",
}
_LIBRARIES = r"(diffusers|transformers|huggingface_hub|timm|torch|torchvision)(\.|$)"


def _refuse_recipe_flag(ctx: typer.Context, value: str | None) -> None:
    if value is not None:
        raise UserError(
            f"--recipe is no flag: the recipe is an argument, higfa {ctx.info_name} {value}",
            exit_code=2,
        )


SetFlag = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change a recipe key, e.g. sampling.steps=20.", metavar="KEY=VALUE"),
]
ArmFlag = Annotated[
    list[str] | None,
    typer.Option("--arm", help="Only this arm of the recipe (may be repeated).", metavar="NAME"),
]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
QuietFlag = Annotated[bool, typer.Option("--quiet", help="No progress on stderr.")]


@dataclass(frozen=True)
class RecipeFlags:
    """The flags of every command that reads a recipe."""

    ref: Annotated[
        str | None, typer.Argument(help="Recipe file or built-in name.", metavar="RECIPE")
    ] = None
    dataset: Annotated[
        str | None,
        typer.Option(help="Built-in recipe, instead of RECIPE; for scripts.", metavar="NAME"),
    ] = None
    recipe: Annotated[str | None, typer.Option(hidden=True, callback=_refuse_recipe_flag)] = None
    set_: SetFlag = None
    workspace: Annotated[
        Path | None, typer.Option(help="Folder for artifacts, instead of the recipe's.")
    ] = None
    as_json: JsonFlag = False

    device: ClassVar[str | None] = None

    @property
    def chosen(self) -> str:
        """The recipe chosen. Raises UserError (exit code 2) unless it is exactly one."""
        refs = [ref for ref in (self.ref, self.dataset) if ref is not None]
        if len(refs) != 1:
            problem = "choose one recipe" if refs else "no recipe chosen"
            raise UserError(
                f"{problem}: give a file or a built-in name (`higfa recipes list`)", exit_code=2
            )
        if self.dataset is not None:
            builtin_text(self.dataset)
        return refs[0]

    @property
    def words(self) -> str:
        """What to type after a command to make the same choice again."""
        words = [self.chosen]
        for override in self.set_ or ():
            words += ["--set", override]
        if self.workspace:
            words += ["--workspace", str(self.workspace)]
        if self.device:
            words += ["--device", self.device]
        return shlex.join(words)

    def with_key(self, override: str) -> Self:
        """The same flags with one more `--set KEY=VALUE`."""
        return replace(self, set_=[*(self.set_ or ()), override])

    def context(self, quiet: bool = True, force: bool = False) -> Context:
        """Load the recipe. Raises UserError when it is not valid."""
        silence_libraries()
        from higfa_cli.cli.output import TerminalProgress
        from higfa_cli.recipe.load import load_recipe
        from higfa_cli.stages.context import make_context

        device = [f"run.device={self.device}"] if self.device else []
        loaded = load_recipe(self.chosen, [*(self.set_ or ()), *device])
        return make_context(loaded, self.workspace, TerminalProgress(quiet), force)


@dataclass(frozen=True)
class DeviceFlags(RecipeFlags):
    """The flags of every command that computes, or says how that would go."""

    device: Annotated[  # type: ignore[misc]
        str | None, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.", metavar="DEVICE")
    ] = None


@dataclass(frozen=True)
class StageFlags(DeviceFlags):
    """The flags of every command that runs stages."""

    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Run again although all is fresh; what was drawn or trained is set aside.",
        ),
    ] = False
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and write nothing.")
    ] = False
    quiet: QuietFlag = False


def silence_libraries() -> None:
    """Keep the libraries' own bars and notices out of the program's output."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    # Notes to programmers, about calls that the user of a command cannot change.
    for category in (FutureWarning, DeprecationWarning, UserWarning):
        warnings.filterwarnings("ignore", category=category, module=_LIBRARIES)


def spelled_out(command: Callable[..., None]) -> Callable[..., None]:
    """A command with the flags of its first parameter, a `RecipeFlags`, spelled out for Typer.

    A command without one is returned as it is.
    """
    first, *others = inspect.signature(command, eval_str=True).parameters.values()
    flags_type = first.annotation
    if not (isinstance(flags_type, type) and issubclass(flags_type, RecipeFlags)):
        return command
    hints = get_type_hints(flags_type, include_extras=True)
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
