"""Tests of the samplers on Ray."""
