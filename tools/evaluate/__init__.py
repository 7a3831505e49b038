"""Measures a system on the demo world: alignment, fidelity, prior, upsamplers, baselines, decoder settings.

python -m tools.evaluate SYSTEM --reader READER
"""
