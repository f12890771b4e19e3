"""Collectors: step environments, record the steps in slots, and keep the statistics of episodes."""
