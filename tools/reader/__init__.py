"""The attribute reader: a small CNN that says what a 64 px picture of the demo world shows, independent of any CLIP.

`python -m tools.reader OUT` trains and validates it on renders and their scene graphs; `open_reader(path)` reads
pictures with it. Nothing of the product uses it: it is the ruler that tools/evaluate measures with.
"""

from tools.reader.reading import Reading, Seen, open_reader, read

__all__ = ["Reading", "Seen", "open_reader", "read"]
