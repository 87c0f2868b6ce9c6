"""The machine: what a figure depends on beside the code."""

import os
import platform
import sys
import sysconfig
import tomllib
from datetime import date
from importlib.metadata import version
from pathlib import Path

__all__ = ["ROOT", "describe_machine", "own_version"]

ROOT = Path(__file__).parents[2]
_OPTIONS = {"--enable-optimizations": "profile-guided optimisation", "--with-lto": "link-time optimisation"}


def describe_machine() -> dict[str, str]:
    """Return what to know of this run: date, Python and its build, versions, processor."""
    return {
        "date": date.today().isoformat(),
        "python": f"{platform.python_implementation()} {' '.join(sys.version.split())}",
        "build": _build(),
        "packages": ", ".join(f"{name} {version(name)}" for name in ("pydantic", "pydantic_core", "structlog")),
        "messagebus": own_version(),
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "system": f"{platform.system()} {platform.machine()}",
    }


def own_version() -> str:
    """Return the version of the code that is measured, which need not be installed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return str(project["version"])


def _build() -> str:
    arguments = sysconfig.get_config_var("CONFIG_ARGS") or ""
    return ", ".join(f"{'with' if option in arguments else 'without'} {name}" for option, name in _OPTIONS.items())


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown processor"
