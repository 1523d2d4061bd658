"""What happens over time: requests and engine steps on a simulated clock, written as the executor writes its rounds.

``serve`` plays arrivals out on replicas that admit, batch, speculate and run out of memory: a ``server`` is a process,
its steps are computed by ``kernel`` (or ``arrays``) from the tables of ``step_times``, its decisions are ``policies``.
``replica`` and ``closed_loop`` are the small simulator of one draft tree, whose rounds are records like the executor's.
"""
