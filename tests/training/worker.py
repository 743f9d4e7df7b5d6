"""A run that dies: `python -m tests.training.worker DIRECTORY [STEP SIGNAL DELAY_S]` trains or goes on.

When it is about to take batch STEP it sends itself the signal, at once or some time later.
"""

import hashlib
import os
import subprocess
import sys
import threading
from pathlib import Path

import jax
import numpy as np

from fusionjax.parallel import make_mesh
from fusionjax.training import Checkpoints, FitResult, OptimizerConfig, TrainState, fit, make_optimizer, make_train_step
from fusionjax.training.leaves import flatten, to_host
from tests.training.small import Batches, dropout_loss_fn, make_state

TOTAL_STEPS = 60
REPOSITORY = Path(__file__).parents[2]


class DyingBatches(Batches):
    """Batches that send a signal to their own process."""

    def __init__(self, at: int, number: int, delay_s: float) -> None:
        super().__init__()
        self.at, self.number, self.delay_s = at, number, delay_s

    def __next__(self) -> dict[str, np.ndarray]:
        if self.position == self.at:
            if self.delay_s:
                threading.Timer(self.delay_s, os.kill, (os.getpid(), self.number)).start()
            else:
                os.kill(os.getpid(), self.number)
        return super().__next__()


def digest(state: TrainState) -> str:
    """A hash of every bit of a state."""
    parts = [name.encode() + to_host(leaf).tobytes() for name, leaf in sorted(flatten(state).items())]
    return hashlib.sha256(b"".join(parts)).hexdigest()


def train(directory: Path, batches: Batches, evaluate_every: int = 7) -> FitResult:
    """Trains to the last step, from the newest checkpoint where there is one."""
    optimizer, _ = make_optimizer(OptimizerConfig(warmup_steps=5, weight_decay=0.1, clip_norm=1.0), TOTAL_STEPS)
    state = make_state(optimizer, ema_decay=0.9)
    step = make_train_step(dropout_loss_fn, optimizer, mesh=make_mesh(2), accumulate=2, ema_decay=0.9)
    with Checkpoints(directory) as checkpoints:
        if checkpoints.latest_step is not None:
            state, data_state, _ = checkpoints.restore(state)
            batches.set_state(data_state)
        return fit(
            state,
            step,
            batches,
            total_steps=TOTAL_STEPS,
            checkpoints=checkpoints,
            checkpoint_every=3,
            evaluate_every=evaluate_every,
            evaluate=lambda state: {"size": abs(float(state.eval_params["out"]["bias"][0]))},
            best_metric="size",
        )


def run_worker(directory: Path, at: int = -1, number: int = 0, delay_s: float = 0.0) -> tuple[int, str, str]:
    """Runs this module in a process of its own: exit code, output, errors."""
    command = [sys.executable, "-W", "error", "-m", "tests.training.worker"]
    done = subprocess.run(
        [*command, str(directory), str(at), str(int(number)), str(delay_s)],
        cwd=REPOSITORY,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(REPOSITORY)},
        text=True,
        capture_output=True,
        check=False,
    )
    return done.returncode, done.stdout.strip(), done.stderr


def main(directory: str, at: str, number: str, delay_s: str) -> int:
    jax.config.update("jax_num_cpu_devices", 8)
    result = train(Path(directory), DyingBatches(int(at), int(number), float(delay_s)))
    print("interrupted" if result.interrupted else "done", int(result.state.step), digest(result.state))
    return 130 if result.interrupted else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
