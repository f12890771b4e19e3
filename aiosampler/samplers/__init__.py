"""The samplers: what the user holds."""
