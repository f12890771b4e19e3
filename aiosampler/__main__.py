"""Commands about samplers: what this machine allows, how fast they are on it, and which is the fastest."""

import argparse
import asyncio
import contextlib
import json
import os
import sys

from aiosampler.errors import SamplerError


def main(arguments: list[str] | None = None) -> int:
    """Run a command; return the exit status.

    It is 1 of `doctor` if something is missing that samplers need, of `bench` if one of the samplers failed, and of
    `tune` if all did; it is 2 if nothing was measured, as an argument is wrong.
    """
    parser = argparse.ArgumentParser(prog="python -m aiosampler", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    doctor = commands.add_parser("doctor", help="what this machine allows: processes, signals, CPUs, memory, devices")
    doctor.add_argument("--json", action="store_true", help="print it as JSON")
    for name, text in (
        ("bench", "how fast samplers of an environment are, beside what this machine could do at best"),
        ("tune", "which sampler of an environment is the fastest on this machine"),
    ):
        _add_measuring(commands.add_parser(name, help=text, description=text), name)
    chosen = parser.parse_args(arguments)
    if chosen.command == "doctor":
        return _doctor(as_json=chosen.json)
    if os.getcwd() not in sys.path:  # as `python -m` has it; `module:factory` is looked for there
        sys.path.insert(0, os.getcwd())
    try:
        return _measure(chosen)
    except SamplerError as exc:
        parser.exit(2, f"{parser.prog} {chosen.command}: {exc}\n")


def _add_measuring(parser: argparse.ArgumentParser, name: str) -> None:
    parser.add_argument("env", metavar="ENV", help="a Gymnasium id, or module:factory")
    parser.add_argument(
        "--env-kwargs", default="{}", metavar="JSON", help="arguments of the environment, a JSON object"
    )
    parser.add_argument("--agent", default="auto", help="auto (a policy that suits the spaces), random, module:factory")
    parser.add_argument("--T", type=int, default=32, help="time steps of a batch (%(default)s)")
    parser.add_argument("--B", type=int, default=16, help="environments (%(default)s)")
    parser.add_argument("--device", default="cpu", help="of agents that act for workers (%(default)s)")
    if name == "bench":
        parser.add_argument("--samplers", default="serial,cpu", help="kinds, with commas (%(default)s); see README")
        parser.add_argument("--workers", type=int, help="processes that step; by default as many as CPUs")
        parser.add_argument("--peers", action="store_true", help="also what other libraries have: see README")
        parser.add_argument("--windows", type=int, default=5, help="how often each is measured (%(default)s)")
        parser.add_argument("--seconds", type=float, default=1.0, help="of each window (%(default)s)")
    else:
        parser.add_argument("--seconds", type=float, default=60.0, help="for all that is tried (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print all numbers as JSON")
    parser.add_argument("--picture", metavar="PATH", help="draw it; needs matplotlib")


def _doctor(*, as_json: bool) -> int:
    from aiosampler.commands.doctor import examine, report

    findings = examine()
    print(json.dumps([finding._asdict() for finding in findings], indent=2) if as_json else report(findings))  # noqa: T201
    return int(any(finding.level == "missing" for finding in findings))


def _measure(chosen: argparse.Namespace) -> int:
    from aiosampler.commands.bench import bench, check_picture, draw, table
    from aiosampler.commands.candidates import candidates, make_subject
    from aiosampler.commands.tune import recommendation, tune

    subject = make_subject(chosen)
    if chosen.picture:
        check_picture(chosen.picture)
    if chosen.command == "bench":
        ways = candidates(chosen.samplers, chosen.workers, chosen.device)
        measuring = bench(subject, ways, peers=chosen.peers, windows=chosen.windows, seconds=chosen.seconds)
    else:
        measuring = tune(subject, chosen.seconds)
    with contextlib.redirect_stdout(sys.stderr):  # what environments and other libraries print is no JSON
        rows = asyncio.run(measuring)
    advice = recommendation(subject, rows) if chosen.command == "tune" else ""
    if chosen.json:
        told = {"env": subject.env, "T": subject.T, "B": subject.B, "rows": [row.as_dict() for row in rows]}
        print(json.dumps({**told, "advice": advice} if advice else told, indent=2))  # noqa: T201
    else:
        print("\n".join(filter(None, (table(subject, rows), advice))))  # noqa: T201
    if chosen.picture:
        draw(chosen.picture, subject, rows)
    tried = rows[: len(ways)] if chosen.command == "bench" else []  # `tune` also tries what cannot be had
    return int(any(row.error for row in tried) or not any(row.rates for row in rows))


if __name__ == "__main__":
    sys.exit(main())
