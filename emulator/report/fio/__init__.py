"""What fio itself would have printed for the jobs of a box: its JSON, its normal text, its terse lines.

:mod:`jobs` gathers a run's jobs and groups from books and rings; :mod:`json_output`, :mod:`normal` and
:mod:`terse` are fio 3.33's three forms of them, :mod:`numbers` its ways to write a number.
"""
