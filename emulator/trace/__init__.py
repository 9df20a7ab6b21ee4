"""Per-node event rings and every format that is read from them."""
