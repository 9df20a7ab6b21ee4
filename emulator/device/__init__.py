"""Device models: what a disk does with the requests it is given.  Sans I/O."""
