"""The mathematics of diffusion; it knows nothing of networks."""
