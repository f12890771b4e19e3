"""What arrays look like: trees, shapes and dtypes, seeds. Knows neither torch nor processes."""
