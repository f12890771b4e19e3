"""Samplers on many machines: actors of a Ray cluster, behind the interface of one local sampler.

It needs Ray, the extra ``ray`` of this package, and is imported by itself: ``from aiosampler.ray import RaySampler``.
"""

try:
    import ray as _ray  # noqa: F401 - everything here needs it
except ImportError as exc:
    raise ImportError("aiosampler.ray needs Ray: install it, or this package with its extra ray") from exc

from aiosampler.ray.ray_sampler import RaySampler as RaySampler
from aiosampler.ray.ray_statistics import ActorStatistics as ActorStatistics
from aiosampler.ray.ray_statistics import RaySampleStats as RaySampleStats
from aiosampler.ray.ray_statistics import RayStatistics as RayStatistics

__all__ = ["ActorStatistics", "RaySampleStats", "RaySampler", "RayStatistics"]
