"""Emulated time: the node protocol, windows, total order, and the two ways to run a box."""
