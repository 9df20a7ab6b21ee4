"""An emulated N-CPU Linux box on real host CPUs."""

__version__ = "0.1.0"
