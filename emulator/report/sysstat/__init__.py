"""What ``iostat`` and ``mpstat`` would have printed inside a box, in the columns and JSON of sysstat 12.6.

:mod:`samples` reads the counters that the tools read, at moments; :mod:`iostat` and :mod:`mpstat` say
what has changed between two of them, :mod:`layout` has what both print around it.
"""
