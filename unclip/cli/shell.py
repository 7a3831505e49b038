"""What every command line of this project shares: one-line errors, one-line warnings, exit codes."""

import contextlib
import errno
import signal
import sys
import warnings
from collections.abc import Iterator

from cyclopts import App, CycloptsError

from unclip.errors import UnclipError, UnclipWarning

INTERRUPTED = 130


def run(app: App) -> None:
    """Runs a command line and exits: 0 when all went well, 1 after a mistake (one line on stderr), 130 after Ctrl-C.

    Whatever was finished before stays.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite kill ends like Ctrl-C
    with one_line_warnings():
        try:
            app(exit_on_error=False, print_error=False)
        except CycloptsError as error:
            sys.exit(f"error: {' '.join(str(error).split())}")
        except UnclipError as error:
            sys.exit(f"error: {error}")
        except KeyboardInterrupt:
            print("stopped; what was finished is kept", file=sys.stderr)
            sys.exit(INTERRUPTED)
        except BrokenPipeError:
            sys.exit(1)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT, errno.EFBIG, errno.EPERM):
                raise
            sys.exit(f"error: {error.filename or 'a file'}: could not be written: {error.strerror}")


@contextlib.contextmanager
def one_line_warnings() -> Iterator[None]:
    """Prints every UnclipWarning once, as one line on stderr; other warnings stay as Python shows them."""
    with warnings.catch_warnings():
        warnings.simplefilter("once", UnclipWarning)
        usual = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *rest: object) -> None:
            if issubclass(category, UnclipWarning):
                print(f"warning: {message}", file=sys.stderr)
            else:
                usual(message, category, *rest)  # type: ignore[arg-type]

        warnings.showwarning = show
        yield
