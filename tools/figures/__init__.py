"""The paper's figures and tables (2204.06125), remade on a system of the demo world, each claim measured.

`python -m tools.figures [NAME …]`; a figure is a function of a Studio in FIGURES (`tools/figures/__main__.py`).
"""
