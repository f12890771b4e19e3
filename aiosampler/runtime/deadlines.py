"""How long a parent waits for a child to close before it kills it, in seconds.

They are in one table because they depend on each other. A process that is asked to close first closes its own children.
So a parent has more time than its children: a worker has less than the server that waits for it, and a server less than
the sampler process; the differences leave time to kill a child that is late. A process whose parent has ended has
`ORPHAN_S` in any case.
"""

SAMPLER_CLOSE_S = 6.0  # the sampler process: for its servers and workers, and for what it has open itself
SERVER_CLOSE_S = 5.0  # a server process: for its workers
WORKER_CLOSE_S = 4.0  # a worker: for what it has open
TRIAL_CLOSE_S = 2.0  # the process of a trial: to exit, since what it had open is closed by then
PROBE_CLOSE_S = 0.5  # the sampler process during a trial: the user's constructors may never return
COROUTINE_CLOSE_S = 1.5  # all coroutines together that close what a worker has open
LOOP_CLOSE_S = 0.5  # the tasks that these have left in their event loop
ORPHAN_S = 2.0  # any process whose parent has ended
KILL_S = 2.0  # a process that was killed, to end: one that hangs in the kernel, in a driver say, is left behind
FORK_S = 30.0  # a fork server that was asked for a process, to answer
EXIT_S = 5.0  # a process whose socket has closed, to have an exit code

#: What a parent waits beyond `start_timeout`, so that the process below it has time to report which of its own is late.
START_MARGIN_S = 3.0
