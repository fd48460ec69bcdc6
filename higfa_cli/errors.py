"""The one error that users are meant to see."""

from __future__ import annotations


class UserError(Exception):
    """Bad input or a missing artifact: one line that names the thing and the remedy.

    The command line prints it without a traceback and exits with `exit_code`
    (1 for an error, 2 for a mistake in flags or recipe, 75 when a folder is busy).
    """

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class RecipeError(UserError):
    """A recipe or an override that does not validate (exit code 2)."""

    def __init__(self, message: str) -> None:
        super().__init__(message, exit_code=2)
