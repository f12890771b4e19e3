"""The tests, room by room: those of ``aiosampler/<room>/<file>.py`` are in ``tests/<room>/test_<file>.py``.

Where one file has many behaviours, each has a file of its own: those of ``samplers/base.py`` are
``samplers/test_calls.py``, ``test_start.py``, ``test_failures.py``, ``test_closing.py`` and so on. ``system/`` tries
whole programs and machines: users' scripts, limits of the system, what others could reach, processes killed at random
(``python -m tests.system.test_chaos``), and use for hours (``python -m tests.system.soak``).

What tests share is in ``support/``; no test imports another:

- ``worlds.py``, ``agents.py``, ``models.py``: environments and agents whose every value says where it belongs.
- ``samplers.py``: ``KINDS``, ``EVERYWHERE``, ``PARALLEL``, ``SERVED``, and ``small(kind, ...)``, which makes one.
- ``in_process.py``: the serial loop in the test's own process, which every sampler is compared to.
- ``losses.py``: environments that fail at a known step, and what is left of their batch.
- ``processes.py``: our children, descriptors, names in /dev/shm, and ``until`` for what another process does.

Tests run beside each other (``pytest -n 3``): each looks at the children, descriptors and shared memory of its own
process. Those that say something of time are marked ``alone`` and run afterwards.
Those marked ``slow``, mostly of whole machines and of many start methods, are run last, by ``.ci/run`` alone.

Fixtures: ``no_leaks`` for every test that starts a process, ``same_generators`` for one that seeds global generators,
``parallel`` to make a sampler of each kind with workers, and in ``samplers/`` ``kind`` to make one of each kind. Async
tests run on both event loops; those in ``engines/``, ``workers/`` and ``system/`` keep to uvloop, and those in
``samplers/`` try both with the serial sampler.
"""
