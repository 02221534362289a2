"""Which version of distjet made a result?"""

import subprocess
from pathlib import Path


def git_commit() -> str:
    """Return the commit of the source tree that runs, or `unknown` outside of one."""
    source = Path(__file__).parent
    command = ["git", "-C", str(source), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"
