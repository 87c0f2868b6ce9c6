"""The checks can fail: each of these faults, planted into a copy of the package, is found by the check named."""

import json
import subprocess
import sys
from pathlib import Path

import messagebus
from tests.proof import planting
from tests.proof.faults import FAULTS

COUNTS, SHORT, LONG = "faults", len(FAULTS), len(FAULTS)
ROOT = Path(messagebus.__file__).parents[1]
_FAILED = 1  # pytest's exit code: the test ran, and is red.


def run(jobs):
    """Run each job in a process of its own, and yield its end when it has come."""
    command = [sys.executable, planting.__file__, str(ROOT)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8") as process:
        process.stdin.write(json.dumps(jobs))
        process.stdin.close()
        yield from map(json.loads, process.stdout)
    assert process.returncode == 0, "the program that plants the faults has failed"


def plant(faults):
    """Yield the end of each fault's check; those that wait for something to hang begin first."""
    first = sorted(faults, key=lambda fault: "test_faults" not in fault.test)
    return run([{**fault._asdict(), "tests": [fault.test]} for fault in first])


def check_sound_copy():
    """Run the named checks without any fault, and return how that ended."""
    by_file = {}
    for test in sorted({fault.test for fault in FAULTS}):
        by_file.setdefault(test.partition("::")[0], []).append(test)
    return [*run([{"name": file, "file": "", "tests": tests} for file, tests in by_file.items()])]


def is_found(end):
    return end["code"] == _FAILED and " failed" in end["said"] and "error" not in end["said"].splitlines()[-1]


def prove(size, report):
    red = [end for end in check_sound_copy() if end["code"] != 0]
    assert not red, "red without a fault: " + "\n".join(f"{end['name']}\n{end['said']}" for end in red)
    missed = []
    for end in plant(FAULTS[:size]):
        fault = next(one for one in FAULTS if one.name == end["name"])
        missed += [] if is_found(end) else [f"{fault.name}: exit code {end['code']}\n{end['said']}"]
        report(f"{'found ' if is_found(end) else 'MISSED'} {end['seconds']:5.1f} s  {fault.name}  [{fault.test}]")
    assert not missed, f"{len(missed)} of {size} were not found\n" + "\n".join(missed)
    return f"{size} of {size} were found"
