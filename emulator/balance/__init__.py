"""The load balancer: sched domains, load_balance(), nohz idle balancing.  Sans I/O."""
