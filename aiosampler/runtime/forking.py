"""The lock that keeps this process from forking while locks of libraries are held."""

import threading

#: Held while forking, and around calls that take locks of torch: a child forked meanwhile could never take these.
forking = threading.RLock()
