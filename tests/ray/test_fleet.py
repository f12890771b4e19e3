"""What a fleet makes of its actors, without a cluster."""

import asyncio

import pytest

from aiosampler import ConfigError
from aiosampler.samplers.state import State
from aiosampler.samplers.statistics import Counters

pytest.importorskip("ray", reason="the extra ray is not installed")

from aiosampler.ray.fleet import Fleet
from aiosampler.ray.plan import FleetOptions


class Starting:
    """Starts actors that are nowhere."""

    async def probe(self, actor, seed, itr, version):
        actor.version = version

    async def start(self, actor, parameters):
        actor.watch = lambda: None


def fleet_of_one(**options):
    """A running fleet of one actor, and what is sent to it."""
    defaults = {"rank": 0, "n_ranks": 1, "together": False, "max_ahead": 1, "max_actor_restarts": 1}
    defaults |= {"place_timeout": None, "actor_options": {}, "batch_B": 2, "eval_n_envs": 0}
    fleet, sent = Fleet(None, FleetOptions(n_actors=1, **{**defaults, **options}), Counters()), []
    fleet._starting, fleet.state = Starting(), State.RUNNING
    fleet.actors[0].publish = lambda *parameters: sent.append(parameters)
    return fleet, fleet.actors[0], sent


async def test_what_is_published_at_the_end_of_a_replacement_reaches_it():
    fleet, actor, sent = fleet_of_one()
    actor.replacing = asyncio.ensure_future(fleet._replace(actor))
    await asyncio.wait((actor.replacing,))  # and nobody has looked yet
    fleet.publish("new", 1)
    fleet._look()
    assert sent == [("new", 1)]


async def test_parameters_do_not_go_back_where_they_are_put_at_the_same_time():
    fleet, _, sent = fleet_of_one()
    fleet.publish("second", 2)
    fleet.publish("first", 1)
    assert (sent, fleet.version, fleet._parameters) == ([("second", 2)], 2, "second")


async def test_another_number_than_that_of_a_batch_that_was_asked_for_is_refused():
    fleet, actor, _ = fleet_of_one(max_ahead=0)
    actor.batches.append(asyncio.get_running_loop().create_future())
    actor.next_itr = 6
    with pytest.raises(ConfigError, match="itr=7, but the batch with itr=5 is being collected already"):
        await fleet.collect(7, None)
