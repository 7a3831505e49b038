"""Building blocks of the nets; they know nothing of diffusion."""
