"""One emulated CPU and all that it owns.  Sans I/O: no sockets, files, clocks, threads, randomness."""
