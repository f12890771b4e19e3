"""Agents: the policy interface, ready agents, and the publication of parameters."""
