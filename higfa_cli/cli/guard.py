"""Errors as users see them: one line on stderr and an exit code. Signals end a run in order."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

from higfa_cli import __version__
from higfa_cli.cli import streams
from higfa_cli.errors import UserError, remedy_for
from higfa_cli.text import inert, one_line

INTERRUPTED = 130
DEBUG = "HIGFA_DEBUG"
# Those that exist here: Windows has no SIGHUP.
_SIGNALS = tuple(getattr(signal, n) for n in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, n))


class Stopped(KeyboardInterrupt):
    """A signal asked the program to end; it unwinds as Ctrl-C does, so folders stay resumable."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number

    @property
    def exit_code(self) -> int:
        """As shells count it: 130 after SIGINT, 143 after SIGTERM, 129 after SIGHUP."""
        return 128 + self.number


class Guarded(TyperGroup):
    """A command group that turns exceptions into one line and an exit code.

    With HIGFA_DEBUG=1 in the environment, exceptions keep their traceback.
    """

    def invoke(self, ctx: Any) -> Any:
        debug = os.environ.get(DEBUG) == "1"
        try:
            with _stoppable():
                return super().invoke(ctx)
        except UserError as error:
            if debug:
                raise
            complain(str(error))
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt as error:
            complain(_interrupted(error))
            raise typer.Exit(getattr(error, "exit_code", INTERRUPTED)) from None
        except BrokenPipeError:
            # The reader (`| head`) has gone: nothing is left to say, and flushing at exit would
            # complain again.
            streams.abandon(sys.stdout)
            raise typer.Exit(1) from None
        except Exception as error:
            if debug or _is_typers_own(error):
                raise
            command = self.get_command(ctx, ctx.invoked_subcommand or "")
            flags = {flag for param in getattr(command, "params", ()) for flag in param.opts}
            complain(_described(error, "--out" if "--out" in flags else "--workspace"))
            raise typer.Exit(1) from None


def guarded_main(app: Callable[[], Any]) -> NoReturn:
    """Run the program to its exit code; what it printed has then been written, or is an error."""
    streams.prepare()
    code: Any = 0
    try:
        # Recipes and manifests are UTF-8; else a class folder and its name are different texts.
        encoding = sys.getfilesystemencoding()
        if encoding.lower() != "utf-8":
            raise UserError(f"file names are {encoding} in this locale; set PYTHONUTF8=1")
        app()
    except SystemExit as ending:
        code = ending.code
    # Before or after a command has the word; inside one, `Guarded` answers.
    except KeyboardInterrupt as error:
        complain(_interrupted(error))
        code = getattr(error, "exit_code", INTERRUPTED)
    except (UserError, OSError) as error:
        if os.environ.get(DEBUG) == "1":
            raise
        complain(_described(error))
        code = getattr(error, "exit_code", 1)
    failure = streams.flush_failure(sys.stdout)
    if failure is not None:
        if not code and not isinstance(failure, BrokenPipeError):
            complain(_described(failure))
        streams.abandon(sys.stdout)
        code = code or 1
    if streams.flush_failure(sys.stderr):
        streams.abandon(sys.stderr)
    sys.exit(code)


@contextmanager
def _stoppable() -> Iterator[None]:
    """The first signal unwinds, which leaves locks and records in order; a second kills at once."""
    previous: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in _SIGNALS:
            handler = signal.getsignal(number)
            # One that is ignored (`nohup`, a job in the background) stays ignored.
            if handler not in (signal.SIG_IGN, None):
                previous[number] = handler
                signal.signal(number, _stop)
    try:
        yield
    finally:
        for number, handler in previous.items():
            # Once stopped, the next signal kills until the process has ended.
            if signal.getsignal(number) is _stop:
                signal.signal(number, handler)


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    for each in _SIGNALS:
        if signal.getsignal(each) is _stop:
            signal.signal(each, signal.SIG_DFL)
    raise Stopped(number)


def _interrupted(error: KeyboardInterrupt) -> str:
    by = f" by {error}" if isinstance(error, Stopped) and error.number != signal.SIGINT else ""
    return f"interrupted{by}; run the same command again to go on"


def _described(error: Exception, place: str = "--workspace") -> str:
    """One line for an exception, with a remedy if one is known; `place`: where it writes."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError) and error.errno is not None:
        where = f"{error.filename}: " if error.filename is not None else ""
        remedy = remedy_for(error, place) or f"check the path (set {DEBUG}=1 for the traceback)"
        if error.filename == streams.STDOUT:
            remedy = "what was to be printed is lost, files written are whole: send it elsewhere"
        return f"{where}{error.strerror}; {remedy}"
    if isinstance(error, UnicodeEncodeError):
        around = error.object[max(error.start - 40, 0) : error.end + 40]
        return f"{around!r} cannot be written as {error.encoding}; rename the file or the class"
    if isinstance(error, MemoryError):
        return "this machine's memory is full; end other programs, or lower run.batch_size"
    return (
        f"a fault of higfa {__version__}: {one_line(error)}; please report it to the project, with "
        f"what the command prints under {DEBUG}=1"
    )


def _is_typers_own(error: Exception) -> bool:
    """Usage errors, exits and aborts, which Typer itself reports (and has moved over time)."""
    return any(base.__module__.split(".")[0] in ("click", "typer") for base in type(error).__mro__)


def complain(message: str, kind: str = "error") -> None:
    """Print an error line (or a warning); where stderr takes none, the exit code says it all."""
    with contextlib.suppress(OSError):
        typer.echo(f"{kind}: " + inert(" ".join(message.split())), err=True)
