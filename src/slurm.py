"""What is asked of Slurm: before the first job whether any can be submitted, in a job what its SIGTERM means."""

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec

from src.preflight import ConfigError

COMMANDS = ("sbatch", "srun", "scontrol", "scancel")
LAUNCHER = "hydra/launcher=submitit_slurm"


def check_slurm() -> None:
    """Tells where a job's end would go unnoticed; ConfigError where none can be submitted."""
    if find_spec("hydra_plugins") is None or find_spec("hydra_plugins.hydra_submitit_launcher") is None:
        raise ConfigError(f"{LAUNCHER} needs two packages: pip install 'hydra-submitit-launcher>=1.2' 'submitit>=1.5'")
    if absent := [command for command in COMMANDS if shutil.which(command) is None]:
        raise ConfigError(
            f"{LAUNCHER} needs Slurm's commands, and {', '.join(absent)} cannot be found here. Start it on a login "
            "node of the cluster; without Slurm, leave the launcher out."
        )
    if reason := _why_sacct_fails():
        print(
            f"note: sacct does not answer ({reason}). It is the only way to learn that a job was killed or cancelled: "
            "this command would wait for such a job for ever, while the others finish. Runs that end by themselves are "
            "seen without it.",
            file=sys.stderr,
        )


def _why_sacct_fails() -> str:
    """What submitit itself asks, for no job in particular; empty where it is answered."""
    question = ["sacct", "-o", "JobID,State,NodeList", "--parsable2"]
    try:
        done = subprocess.run(question, capture_output=True, text=True, timeout=30, env=os.environ | {"LC_ALL": "C"})
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.returncode == 0 and done.stdout.startswith("JobID"):
        return ""
    return (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[0]


def in_grace() -> bool:
    """True in a job that is to make room but still runs, as clusters with a GraceTime have it.

    There SIGTERM comes at the beginning of that time, and a job that ends within it counts as failed: it has to have
    itself requeued. At its end, as without a GraceTime, Slurm does so; after scancel nobody should.
    """
    if (job := os.environ.get("SLURM_JOB_ID")) is None:
        return False
    try:
        question = ["scontrol", "show", "job", job, "--oneliner"]
        shown = subprocess.run(question, capture_output=True, text=True, check=True, timeout=20).stdout
    except (OSError, subprocess.SubprocessError):
        return False
    state = dict(word.split("=", 1) for word in shown.split() if "=" in word)
    return state.get("JobState") == "RUNNING" and state.get("PreemptTime", "None") != "None"
