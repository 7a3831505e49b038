"""What every command line of this project shares: one-line errors and warnings, exit codes, options that are lists."""

import contextlib
import errno
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, get_args

from cyclopts import App, CycloptsError, Token

from unclip.errors import UnclipError, UnclipWarning

INTERRUPTED = 130
OUT_OF_MEMORY = ("DefaultCPUAllocator", "could not create a primitive")  # how torch's CPU libraries say it


def run(app: App) -> None:
    """Runs a command line and exits: 0 when all went well, 1 after a mistake (one line on stderr), 130 after Ctrl-C.

    Whatever was finished before stays.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite kill ends like Ctrl-C
    app.suppress_keyboard_interrupt = False  # cyclopts would exit without a word
    with one_line_warnings():
        try:
            app(sys.argv[1:], exit_on_error=False, print_error=False)
        except CycloptsError as error:
            sys.exit(f"error: {_one_line(error)}")
        except UnclipError as error:
            sys.exit(f"error: {error}")
        except KeyboardInterrupt:
            print("stopped; what was finished is kept", file=sys.stderr)
            sys.exit(INTERRUPTED)
        except (RuntimeError, MemoryError) as error:
            if type(error).__name__ == "OutOfMemoryError":  # torch's, which --help does without
                sys.exit("error: the device is out of memory; lower --batch or --size, or give --device cpu")
            if not (isinstance(error, MemoryError) or any(sign in str(error) for sign in OUT_OF_MEMORY)):
                raise
            sys.exit("error: out of memory; lower --batch or --size, or give --low-memory or --dtype bfloat16")
        except BrokenPipeError:
            sys.exit(1)
        except OSError as error:
            if error.filename is None and error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
                raise
            sys.exit(f"error: {error.filename or 'a file could not be written'}: {error.strerror}")


@contextlib.contextmanager
def one_line_warnings() -> Iterator[None]:
    """Prints every UnclipWarning once, as one line on stderr; other warnings stay as Python shows them."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", UnclipWarning)  # "once" means once per place in the code
        usual, shown = warnings.showwarning, set()

        def show(message: Warning | str, category: type[Warning], *rest: object) -> None:
            if issubclass(category, UnclipWarning):
                if str(message) not in shown:
                    print(f"warning: {message}", file=sys.stderr)
                shown.add(str(message))
            else:
                usual(message, category, *rest)  # type: ignore[arg-type]

        warnings.showwarning = show
        yield


def listed(kind: Any, tokens: Sequence[Token]) -> tuple[Any, ...]:
    """An option's values given as "20,40,80" or as several words."""
    one = get_args(kind)[0]
    return tuple(one(part) for token in tokens for part in token.value.split(",") if part.strip())


def _one_line(error: CycloptsError) -> str:
    text = " ".join(str(error).split())
    report = getattr(error.__cause__, "errors", None)  # pydantic's, if some import brought it: paragraphs with a link
    return f"{text.partition(' 1 validation error')[0]} {report()[0]['msg']}." if report else text
