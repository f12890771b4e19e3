"""``python -m aiosampler doctor``: what this machine allows."""

import argparse
import json
import sys

from aiosampler.commands.doctor import examine, report


def main(arguments: list[str] | None = None) -> int:
    """Run a command; return the exit status: of `doctor`, 1 if something is missing that samplers need."""
    parser = argparse.ArgumentParser(prog="python -m aiosampler", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    doctor = commands.add_parser("doctor", help="what this machine allows: processes, signals, CPUs, memory, devices")
    doctor.add_argument("--json", action="store_true", help="print it as JSON")
    chosen = parser.parse_args(arguments)
    findings = examine()
    if chosen.json:
        print(json.dumps([finding._asdict() for finding in findings], indent=2))  # noqa: T201
    else:
        print(report(findings))  # noqa: T201
    return int(any(finding.level == "missing" for finding in findings))


if __name__ == "__main__":
    sys.exit(main())
