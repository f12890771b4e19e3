"""How long processes are waited for, in seconds: one table, since each time must fit into that of who waits for it.

A process that is asked to end closes its own processes first. So whoever is nearer to the user grants more: a worker
has less than a server, which waits for its workers, and that less than the sampler process, which waits for its
servers. After its grace a process is killed; the differences leave room for
that. One whose parent is gone is asked by nobody and waits for nobody: it has `ORPHAN_S`.
"""

SAMPLER_CLOSE_S = 6.0  # the sampler process: its servers and workers, and its own environments
SERVER_CLOSE_S = 5.0  # a server process, where there are several: its workers
WORKER_CLOSE_S = 4.0  # a worker: its environments
TRIAL_CLOSE_S = 2.0  # the process that has tried out: its own end, its environment is closed by then
PROBE_CLOSE_S = 0.5  # the sampler process that still tries out: a constructor may never return, and has no say
ENVIRONMENT_CLOSE_S = 1.5  # environments of coroutines: their close(), all of them at once
LOOP_CLOSE_S = 0.5  # the loop that they ran in: what they have left there
ORPHAN_S = 2.0  # any process whose parent is gone
KILL_S = 2.0  # any process that was killed: it may be in the kernel, waiting for a device, and is left there
EXIT_S = 5.0  # a process whose socket has closed: its exit code follows a moment later

#: What a parent waits beyond `start_timeout`, so that the process below it has time to report which of its own is late.
START_MARGIN_S = 3.0
