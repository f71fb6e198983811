"""A Ray cluster on this machine: small, silent, without a dashboard, and ended with the tests."""

import contextlib
import logging
import os
import shutil
import signal
import tempfile
import time
from threading import Thread

import psutil
import pytest

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
import ray
import ray.data


@pytest.fixture(scope="module")
def cluster():
    folder = tempfile.mkdtemp(prefix="qf", dir="/tmp")  # sockets need a short path
    for remaining in (2, 1, 0):
        try:
            ray.init(
                address="local",
                num_cpus=4,
                num_gpus=0,
                object_store_memory=80 * 2**20,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                _temp_dir=folder,
            )
            break
        except Exception as error:  # Ray waits for its processes for 30 seconds only
            ray.shutdown()
            if not remaining or "timed out during startup" not in str(error):
                raise
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


def busy_workers():
    """Return the processes of this cluster that are scoring rows: Ray names them by their task."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            title = " ".join(process.cmdline())
            if title.startswith("ray::") and "Scorer" in title and "submit" in title:
                found.append(process)
    return found


@pytest.fixture
def killer():
    """Return a function that kills the next worker while it holds rows.

    It returns a list that then has the process.
    """
    killed = []

    def kill():
        due = time.monotonic() + 300
        while time.monotonic() < due and not killed:
            for process in busy_workers()[:1]:
                process.send_signal(signal.SIGKILL)
                killed.append(process.pid)
            time.sleep(0.01)

    def start():
        Thread(target=kill, daemon=True).start()
        return killed

    return start
