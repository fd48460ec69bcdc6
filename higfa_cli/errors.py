"""The one error that users are meant to see."""

from __future__ import annotations

import errno

# The device, the user's quota, or the process's file size limit.
NO_ROOM = (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC))
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
_IN_THE_WAY = (errno.EEXIST, errno.ENOTDIR, errno.EISDIR)


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


def remedy_for(error: OSError, place: str = "--workspace") -> str | None:
    """What to do about a file or folder that cannot be written; None where nothing is known.

    `place` is the flag that says where the command writes.
    """
    if error.errno in NO_ROOM:
        return "free some space there (or raise the limit), then run the same command again"
    if error.errno in _FORBIDDEN:
        return f"change its permissions, or choose another {place}"
    if error.errno in _IN_THE_WAY:
        return f"move away what is there, or choose another {place}"
    return None
