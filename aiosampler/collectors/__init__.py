"""Collectors: step environments, record what happens, keep the statistics of episodes. Most of it knows no torch."""
