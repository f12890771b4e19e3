"""Processes: starting and watching them, the control channel, and what runs inside."""
