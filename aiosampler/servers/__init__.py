"""Action servers: coroutines that turn the observations of groups of workers into actions."""
