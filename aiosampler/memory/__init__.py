"""Shared memory: the arena, and the layout of arrays in it."""
