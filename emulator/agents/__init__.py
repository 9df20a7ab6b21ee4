"""The OS processes of a box: coordinator, CPU and device agents, the supervisor that keeps them."""
