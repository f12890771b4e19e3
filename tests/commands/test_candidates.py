"""What `bench` and `tune` understand by their arguments."""

import types

import pytest
import torch
from gymnasium import spaces

from aiosampler import AgentInputs, CategoricalPgAgent, GaussianPgAgent, RandomAgent, Spaces
from aiosampler.__main__ import main
from aiosampler.commands.candidates import ALTERNATING, KINDS, Candidate, Subject, find, make_agent
from aiosampler.commands.ceilings import Bounds
from aiosampler.commands.tune import candidates_for

BOX = spaces.Box(-1, 1, (4,))


def test_a_name_is_a_factory_of_a_module_or_an_id():
    assert find("types:SimpleNamespace") is types.SimpleNamespace
    assert find("CartPole-v1") == "CartPole-v1"
    assert find("gymnasium:CartPole-v1") == "gymnasium:CartPole-v1"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nonsense:make"], "the module 'nonsense' cannot be imported"),
        (["types:nonsense"], "has no 'nonsense'"),
        (["Nonsense-v0"], "Nonsense"),
        (["CartPole-v1", "--samplers", "cpu,fpga"], "got 'fpga'"),
        (["CartPole-v1", "--env-kwargs", "{"], "--env-kwargs is not JSON"),
        (["CartPole-v1", "--env-kwargs", "[1]"], "must be a JSON object"),
        (["CartPole-v1", "--agent", "types:SimpleNamespace"], "--agent 'types:SimpleNamespace' must be auto"),
        (["CartPole-v1", "--B", "0"], "--B must be"),
        (["CartPole-v1", "--seconds", "0"], "--seconds must be a number above 0"),
    ],
)
def test_wrong_arguments_are_refused_in_a_sentence(arguments, says, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["bench", *arguments])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert says in said


@pytest.mark.parametrize(
    ("observation", "action", "kind"),
    [
        (BOX, spaces.Discrete(3), CategoricalPgAgent),
        (BOX, spaces.Box(-1, 1, (2, 3)), GaussianPgAgent),
        (spaces.Box(0, 255, (84, 84, 4), "uint8"), spaces.Discrete(3), CategoricalPgAgent),
        (spaces.Box(0, 255, (3, 36, 40), "uint8"), spaces.Box(-1, 1, (2,)), GaussianPgAgent),
        (spaces.Box(0, 1, (5, 5, 3)), spaces.Discrete(3), CategoricalPgAgent),  # too small for convolutions
        (spaces.Dict({"a": BOX}), spaces.Discrete(3), RandomAgent),
        (BOX, spaces.MultiDiscrete([2, 3]), RandomAgent),
    ],
)
def test_the_agent_suits_the_spaces_and_acts(observation, action, kind):
    agent = make_agent("auto", observation, action)
    assert type(agent) is kind
    if isinstance(observation, spaces.Box):
        agent.initialize(Spaces(observation, action))
        agent.sample_mode(0)
        inputs = torch.stack([torch.from_numpy(observation.sample())] * 2)
        with torch.inference_mode():
            step = agent.step(AgentInputs(inputs, None, torch.zeros(2)), None)
        assert step.action.shape == (2, *action.shape)


def test_a_call_is_written_as_one_would_write_it():
    subject = Subject("CartPole-v1", "random", 8, 4, env_kwargs={"sutton_barto_reward": True})
    assert Candidate("own-pace", 2).call(subject) == (
        "AsyncGpuSampler('CartPole-v1', agent=agent, batch_T=8, batch_B=4, n_workers=2, "
        "env_kwargs={'sutton_barto_reward': True}, lockstep=False)"
    )
    assert Candidate("serial").call(Subject("types:SimpleNamespace", "random", 8, 4)) == (
        "AsyncSerialSampler(SimpleNamespace, agent=agent, batch_T=8, batch_B=4)"
    )


@pytest.mark.parametrize("cpus", [1, 2, 3, 8])
@pytest.mark.parametrize("B", [1, 2, 3, 16])
def test_what_is_tried_can_be_had(cpus, B):
    subject = Subject("CartPole-v1", "random", 4, B)
    there = candidates_for(subject, cpus)
    assert len(set(there)) == len(there) >= 1
    for candidate in there:
        candidate.make(subject)  # is refused if it cannot


@pytest.mark.parametrize("kind", KINDS)
def test_a_placement_is_tried_and_told(kind, monkeypatch):
    monkeypatch.setattr("aiosampler.affinity.usable_cpus", lambda: (0, 1, 2, 3))
    monkeypatch.setattr("aiosampler.commands.candidates.usable_cpus", lambda: (0, 1, 2, 3))
    subject = Subject("CartPole-v1", "random", 4, 8)
    placed = Candidate(kind, None if kind == "serial" else 4).placed(subject)
    calls = {each.placement: each.call(subject).partition("affinity=")[2] for each in placed}
    where = {each.placement: each.make(subject).options.affinity for each in placed}
    if kind == "serial":
        assert calls == {}
    elif kind in ALTERNATING:
        assert calls == {
            "pinned": "make_affinity(4, alternating=True))",
            "apart": "make_affinity(4, alternating=True, apart=True))",
            "unplaced": "Affinity(cpus=usable_cpus()))",
        }
        assert where["pinned"].workers == [(0,), (1,), (0,), (1,)]
        assert where["apart"].workers == [(0,), (1,), (2,), (3,)]
        assert where["unplaced"].cpus == (0, 1, 2, 3)
    else:
        assert calls == {"pinned": "make_affinity(4))"}
        assert where["pinned"].workers == [(0,), (1,), (2,), (3,)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_ceiling_is_what_its_parts_make(kind):
    subject = Subject("CartPole-v1", "random", 4, 4)
    bounds = Bounds(subject, cpus=2)
    best, env_s, act_s = bounds.measure(kind, 1 if kind == "serial" else 2, 0.02)
    bounds.close()
    assert env_s > 0 < act_s
    whole = {
        "serial": 4 * env_s + act_s,
        "cpu": (4 * env_s + 2 * act_s) / 2,
        "gpu": 4 * env_s / 2 + act_s,
        "own-pace": 4 * env_s / 2 + act_s,
    }.get(kind, (4 * env_s + 2 * act_s) / 2)
    assert best == pytest.approx(4 / whole)


class OffsetAgent(RandomAgent):
    def collector_initialize(self, global_B, env_ranks):
        self._offsets = torch.zeros(global_B)[list(env_ranks)]

    def step(self, inputs, state):
        assert len(self._offsets) == len(inputs.observation)
        return super().step(inputs, state)


def test_an_agent_is_measured_with_the_environments_that_it_was_told_of():
    bounds = Bounds(Subject("CartPole-v1", f"{__name__}:OffsetAgent", 4, 4), cpus=2)
    for kind in ("serial", "cpu", "alternating"):  # for all, for those of a worker, and for those of a group
        assert bounds.measure(kind, 4, 0.002).act_s > 0
    bounds.close()


class Awaited:
    """A world of coroutines that says whether it was closed."""

    observation_space, action_space = BOX, spaces.Discrete(2)
    closed = 0

    async def step(self, action): ...

    async def close(self):
        Awaited.closed += 1


async def make_awaited():
    return Awaited()


class Entered:
    async def __aenter__(self):
        return Awaited()

    async def __aexit__(self, *error):
        Awaited.closed += 1


@pytest.mark.parametrize("env_fn", [Awaited, make_awaited, Entered])
def test_an_example_of_what_is_awaited_is_looked_at_and_closed(env_fn):
    subject, before = Subject(f"{__name__}:{env_fn.__name__}", "auto", 4, 4), Awaited.closed
    assert subject.awaits
    assert type(subject.make_agent()) is CategoricalPgAgent
    assert Awaited.closed == before + 1
