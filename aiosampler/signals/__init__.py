"""Waking and synchronising processes through shared memory and eventfds."""
