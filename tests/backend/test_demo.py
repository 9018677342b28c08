"""The demo, whole: the embedded model behind the real server, through ChatSelfReg, from the real command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from local_backend.tiny.families import FAMILIES


def test_the_demo_plans_once_and_its_ledger_is_the_server_s(tmp_path: Path) -> None:
    store = tmp_path / "demo.db"
    command = [sys.executable, "-c", "from selfreg_sdk.cli import main; main()", "demo", "--json", "--prompts", "2"]
    done = subprocess.run(
        [*command, "--store", str(store)],
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert set(found["families"]) == set(FAMILIES)
    assert found["planner_calls"] == [len(FAMILIES), 0]
    # A vote that its first wave does not decide takes a second call: maths alone votes, on two prompts in each pass.
    assert 0 <= found["calls"] - len(FAMILIES) * (1 + 2 + 2) <= 4
    assert found["ledger_tokens"] == found["server_tokens"] > 0
    for family in found["families"].values():
        assert family["prompts"] == 2
        assert (family["source"], family["second_pass"]["source"]) == ("plan", "cached plan")
        assert {"temperature", "max_tokens"} <= set(family["sent"])
    assert sum(family["accepted"] for family in found["families"].values()) >= 4
