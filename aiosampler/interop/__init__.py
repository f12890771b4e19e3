"""Using batches and agents with other libraries: a module for each, which is imported by name."""
