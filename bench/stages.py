"""A chain of commands, each one run once: stopped and started again it goes on behind the last one that ended well."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from nanochat.common import print0, write_json
from nanochat.errors import UserError


def run_stages(
    stages: Mapping[str, Sequence[str]], folder: Path, title: str, environment: Mapping[str, str] | None = None
) -> dict[str, float]:
    """Run what has not run yet; minutes of each stage, kept in `folder` with what the commands said.

    stages: name -> module and arguments, in order. `environment` goes over that of this process. Raises UserError for
    a command that fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kept, said = folder / "minutes.json", folder / "log.txt"
    minutes: dict[str, float] = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
    for name, argv in stages.items():
        if name in minutes:
            continue
        start = time.time()
        with open(said, "a", encoding="utf-8") as log:
            done = subprocess.run([sys.executable, "-m", *argv], env=os.environ | dict(environment or {}), stdout=log,
                                  stderr=log, check=False)
        if done.returncode:
            raise UserError(f"Stage {name} of {title} stopped early, see {said}",
                            hint="type the same command again: it goes on")
        minutes[name] = (time.time() - start) / 60
        write_json(kept, minutes)
        print0(f"{title}: {name} {minutes[name]:.1f} min")
    return minutes
