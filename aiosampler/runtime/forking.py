"""What must not be forked half-way."""

import threading

#: Held to fork, and where this process is inside something whose locks a forked process would find locked for ever.
forking = threading.RLock()
