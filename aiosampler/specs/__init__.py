"""Shapes and dtypes of arrays, trees of them, and seeds. Imports neither torch nor anything about processes."""
