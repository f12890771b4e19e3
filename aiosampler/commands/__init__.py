"""What ``python -m aiosampler`` does."""
