"""Hours in minutes: collect, publish and evaluate at full speed, and look at every process of the sampler meanwhile.

    python -m tests.system.soak --minutes 10 --kinds serial,cpu,gpu,devices,alternating,no-overlap
    python -m tests.system.soak --cycles 200

Each batch is verified: what environments observe and reward follows from their seeds and the recorded actions alone,
and the values that the agent gave tell the policy version that it had. The first form fails if a process has grown once
it was warm, or has opened descriptors; the second, if the user's process has after opening and closing that many.
"""

import argparse
import asyncio
import gc
import os
import time

import psutil
import torch
import uvloop

from aiosampler import CategoricalPgAgent, environment_seed
from tests.support.models import small_model
from tests.support.processes import our_children
from tests.support.samplers import KINDS
from tests.support.worlds import CountingEnv

T, B, SEED, LONGEST, MIB = 32, 16, 5, 7, 2**20
WARM_UP, SLACK = 0.2, 1.5 * MIB  # share of the time; what pages that are touched late may add


def make(kind, **more):
    arguments = {} if kind == "serial" else {"n_workers": 4}
    return KINDS[kind](
        CountingEnv,
        agent=CategoricalPgAgent(small_model),
        batch_T=T,
        batch_B=B,
        seed=SEED,
        eval_n_envs=4,
        eval_max_steps=400,
        eval_max_trajectories=8,
        **arguments,
        **more,
    )


class Verifier:
    """Replays all environments beside the sampler, with the actions that it recorded."""

    def __init__(self):
        self._seed = torch.tensor([environment_seed(SEED, b) for b in range(B)])
        self._episode, self._step = torch.zeros(B, dtype=torch.int64), torch.zeros(B, dtype=torch.int64)
        self.ends = 0

    def observation(self):
        return torch.stack([self._seed, self._episode, self._step], -1)

    def check(self, samples):
        env, agent = samples.env, samples.agent
        finals, infos = iter(env.final_observation.observation), 0
        for t in range(T):
            assert torch.equal(env.observation[t], self.observation())
            self._step += 1
            assert torch.equal(env.reward[t], self._step + agent.action[t] / 8)
            done = self._step >= 1 + (self._seed + 3 * self._episode) % LONGEST
            assert torch.equal(env.terminated[t], done & (self._episode % 3 != 1))
            assert torch.equal(env.truncated[t], done & (self._episode % 3 != 0))
            for b in torch.nonzero(done)[:, 0]:
                assert torch.equal(next(finals), self.observation()[b])
                infos += 1
            self._episode += done
            self._step[done] = 0
        assert torch.equal(env.last_observation, self.observation())
        assert next(finals, None) is None
        assert len(samples.traj_infos) == infos
        assert (agent.agent_info["value"] == samples.policy_version).all()
        self.ends += infos


def look():
    """Resident memory and descriptors of this process and all below it, by name."""
    seen = {}
    for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
        try:
            seen[process.pid] = process.memory_info().rss, process.num_fds()
        except psutil.NoSuchProcess:
            continue
    return seen


async def soak(kind, seconds):
    """Use one sampler; return the lines to print, and what is wrong."""
    verifier, batches, evaluations, looks = Verifier(), 0, 0, []
    async with make(kind) as sampler:
        bias = sampler.agent.model.value.bias
        began = last = time.monotonic()
        while (now := time.monotonic()) - began < seconds:
            verifier.check(await sampler.obtain_samples())
            batches += 1
            with torch.no_grad():
                bias.fill_(float(sampler.policy_version + 1))
            sampler.publish()
            if batches % 50 == 0:
                assert len(await sampler.evaluate_agent()) == 8
                evaluations += 1
            if now - last > seconds / 100 and now - began > WARM_UP * seconds:
                last = now
                looks.append(look())
        statistics = sampler.statistics()
    assert statistics.env_steps == batches * T * B
    assert (statistics.lost_steps, statistics.restarts) == (0, 0)
    print(
        f"{kind}: {batches:,} batches verified, {verifier.ends:,} episodes, {evaluations:,} evaluations, "
        f"{batches * T * B / seconds:,.0f} steps/s, {statistics.policy_version:,} versions published"
    )
    faults = [] if our_children() == [] else [f"{kind}: processes are left: {our_children()}"]
    middle = len(looks) // 2
    for number, pid in enumerate(looks[0]):
        rss, descriptors = zip(*(seen[pid] for seen in looks), strict=True)
        early, late = max(rss[:middle]), max(rss[middle:])
        name = "user" if pid == os.getpid() else f"process {number}"
        print(
            f"    {name:10} {early / MIB:7.1f} MiB at most in the first half, {late / MIB:7.1f} MiB in the second, "
            f"descriptors {min(descriptors)} to {max(descriptors)}",
            flush=True,
        )
        if late > early + SLACK:
            faults.append(f"{kind}: {name} has grown")
        if pid != os.getpid() and min(descriptors) != max(descriptors):
            faults.append(f"{kind}: {name} has opened descriptors")
    return faults


async def cycle(kind):
    async with make(kind, start_method="fork") as sampler:
        await sampler.obtain_samples()
        await sampler.evaluate_agent()


def cycles(kind, n):
    """Open and close a sampler n times."""
    rows = []
    for i in range(n):
        asyncio.run(cycle(kind))
        gc.collect()
        process = psutil.Process()
        rows.append((process.num_fds(), process.num_threads(), process.memory_info().rss))
        assert our_children() == []
        if i in (9, n // 2, n - 1):
            descriptors, threads, rss = rows[-1]
            print(f"{kind}: after {i + 1:4} cycles {descriptors} descriptors, {threads} threads, {rss / MIB:.1f} MiB")
    (descriptors, threads, early), late = rows[min(9, n - 1)], rows[-1]
    grown = late[:2] != (descriptors, threads) or late[2] > early + 4 * SLACK
    return [f"{kind}: the user's process has grown"] if grown else []


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="for each kind")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--cycles", type=int, help="open and close so many samplers of each kind instead")
    options = parser.parse_args()
    torch.set_num_threads(1)
    faults = []
    for kind in options.kinds.split(","):
        if options.cycles:
            faults += cycles(kind, options.cycles)
        else:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                faults += runner.run(soak(kind, 60 * options.minutes))
    print(*(faults or ["nothing has grown"]), sep="\n")
    raise SystemExit(bool(faults))


if __name__ == "__main__":
    main()
