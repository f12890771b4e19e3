"""Environments that wait for the end of the batch after their episode."""

import itertools

import pytest
import torch

from tests.support.agents import AgeAgent, LookingAgent
from tests.support.in_process import InProcess, gather
from tests.support.worlds import CountingEnv

pytestmark = pytest.mark.usefixtures("same_generators")


@pytest.mark.parametrize("T", [4, 9])
def test_waiting_environments_leave_blanks(T):
    batches = gather(
        InProcess(
            CountingEnv,
            agent=AgeAgent(),
            batch_T=T,
            batch_B=3,
            seed=5,
            mid_batch_reset=False,
            bootstrap_value=True,
        ),
        6,
    )
    blanks = 0
    for batch in batches:
        for b in range(3):
            ends = batch.env.done[:, b].nonzero()
            first_blank = int(ends[0]) + 1 if len(ends) else T
            assert len(ends) <= 1
            assert batch.valid[:first_blank, b].all()
            assert not batch.valid[first_blank:, b].any()
            steps = batch.env.observation[:first_blank, b, 2].tolist()
            assert steps == list(range(steps[0], steps[0] + first_blank))
            blanks += T - first_blank
            for leaf in (
                batch.env.observation, batch.env.reward, batch.env.prev_reward, batch.env.done, batch.agent.action,
                batch.agent.prev_action, batch.agent.agent_info["look"], batch.agent.agent_info["age"],
            ):  # fmt: skip
                assert not leaf[first_blank:, b].any()
            if first_blank < T:
                assert not batch.env.last_observation[b].any()
            if len(ends):
                assert batch.agent.bootstrap_value[b] == 0
                final = batch.env.final_observation[int(ends[0]), b]
                assert final[2] == steps[-1] + 1
        assert batch.stats.env_steps == int(batch.valid.sum())
    assert blanks
    for before, after in itertools.pairwise(batches):
        for b in range(3):
            if before.env.done[:, b].any():
                assert after.env.observation[0, b, 2] == 0
                assert after.agent.initial_state["age"][b] == 0
            else:
                assert after.env.observation[0, b].tolist() == before.env.last_observation[b].tolist()


class WitnessAgent(LookingAgent):
    seen = {}  # noqa: RUF012 - of the class, since the sampler steps a copy

    def sample_mode(self, itr):
        super().sample_mode(itr)
        self.rows = self.seen[itr] = []

    def step(self, inputs, state):
        if self.mode == "sample":
            self.rows.append(torch.stack((inputs.observation[:, 2].float(), inputs.prev_reward)))
        return super().step(inputs, state)


def test_the_agent_sees_nothing_of_an_environment_that_waits(monkeypatch):
    monkeypatch.setattr(WitnessAgent, "seen", {})
    wait = InProcess(CountingEnv, agent=WitnessAgent(), batch_T=9, batch_B=3, seed=5, mid_batch_reset=False)
    blanks = 0
    for batch in gather(wait, 6):
        seen = torch.stack(WitnessAgent.seen[batch.itr])  # fewer than T, where all wait
        blank = ~batch.valid[: len(seen)]
        assert not seen.movedim(1, -1)[blank].any()
        blanks += int(blank.sum())
    assert blanks > 20
