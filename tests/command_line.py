"""How tests of commands look at what was said and written."""


def one_line(err):
    """Whether this is a mistake's report: one line, and no more."""
    return err.startswith("error: ") and err.count("\n") == 1 and err.endswith("\n") and "Traceback" not in err


def names(folder):
    return sorted(path.name for path in folder.rglob("*")) if folder.exists() else []


def failure(err):
    """The last line: the bars of the work that was done stand before it."""
    *bars, last = err.splitlines()
    assert not any("error" in bar or "Traceback" in bar for bar in bars)
    return last
