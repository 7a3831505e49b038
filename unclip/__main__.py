"""`python -m unclip`, the same as `unclip`."""

from unclip.cli import main

main()
