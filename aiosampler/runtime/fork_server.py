"""Imported by our fork servers, to have them end with their parents.

They end by themselves when nobody has the other end of a pipe any more. But what they forked has it, too: one whose
parent was killed would wait for a process that is stopped, and is continued only when the server ends.
"""

import os
import signal
from typing import Any

from aiosampler.runtime.isolation import PARENT_ENDED, signal_when_parent_ends
from aiosampler.runtime.job_signals import JOB_SIGNALS

_parent = os.getppid()


def _end_without_parent(number: int, frame: Any) -> None:
    if os.getppid() != _parent:  # it may have been but a thread of it
        os._exit(0)


# What it forks begins with these held back, like what is spawned, until it is ready for them.
signal.pthread_sigmask(signal.SIG_BLOCK, JOB_SIGNALS)
signal.signal(PARENT_ENDED, _end_without_parent)
signal_when_parent_ends(PARENT_ENDED)
