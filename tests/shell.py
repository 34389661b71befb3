"""A shell for tests: real processes in a folder of their own, with nothing of whoever runs the tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


class Shell:
    """A shell in a folder of its own: its own home, its own reports, no config.env but its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        own = {"PODCASTQA_HOME": str(folder / "home"), "PODCASTQA_REPORTS": str(folder / "reports")}
        foreign = ("PODCASTQA_", "AWS_", "SPOTIFY_", "PYTEST_")
        self.environ = {k: v for k, v in os.environ.items() if not k.startswith(foreign)} | own
        self.environ["PYTHONPATH"] = str(ROOT)

    def __call__(self, *words: str, code: str = "", **more: str) -> subprocess.CompletedProcess[str]:
        call = self.call(*words, code=code)
        return subprocess.run(
            call, cwd=self.folder, env=self.environ | more, capture_output=True, text=True, timeout=120, check=False
        )

    @staticmethod
    def call(*words: str, code: str = "") -> list[str]:
        how = ["-c", code] if code else ["-m", "podcastqa.cli"]
        return [sys.executable, "-W", "error", *how, *words]
