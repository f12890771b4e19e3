"""Batches and agents in the hands of other libraries: a module for each, to be imported by name."""
