"""The files of /proc and /sys that an emulated box would have, made from what its rings hold.

:mod:`counts` goes over the rings and counts, :mod:`facts` knows the machine, :mod:`files` is the
registry: one path, one function.  A file shows what can be told; what a box has not got is left out.
"""
