"""Processes, and nothing of reinforcement learning: starting, talking to, watching, replacing and ending them."""
