"""A family of the embedded model, tuned through the local server by the real command line, with no key."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

from local_backend.tiny.families import FAMILIES


def test_tuning_improves_on_the_default_settings_on_held_out_prompts(tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    command = [sys.executable, "-c", "from selfreg_sdk.cli import main; main()", "demo", "tune", "--json"]
    done = subprocess.run(
        [*command, "--family", "translation", "--folder", str(folder)],
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["verdict"] == "use the winner"
    # The server's default is temperature 1, at which half of the answers are right.
    assert found["winner"]["config"]["temperature"] < 1
    held_out = found["held_out"]
    assert held_out["difference"]["examples"] == held_out["winner"]["examples"] == 30
    assert held_out["difference"]["low"] > 0
    assert held_out["winner"]["score"] > held_out["baseline"]["score"]
    assert "temperature" not in held_out["baseline"]["config"]
    assert Decimal(found["spent_usd"]) <= Decimal(found["total_usd"])
    prompts = [json.loads(line)["prompt"] for line in (folder / "examples.jsonl").read_text().splitlines()]
    assert {FAMILIES["translation"].split_of(prompt) for prompt in prompts} == {"test"}
