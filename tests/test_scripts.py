"""The script that counts the tests reads the closing lines of all runners, and takes silence for failure."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("count_tests", ROOT / "scripts" / "test.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("lines", "passed_failed_skipped"),
    [
        (["     Summary [   0.006s] 1 test run: 1 passed, 0 skipped"], (1, 0, 0)),
        (
            [
                "\x1b[1m     Summary\x1b[0m [ 1.2s] 9 tests run: 4 passed (2 slow), 3 failed, 2 timed out, 5 skipped"
            ],
            (4, 5, 5),
        ),
        (["     Summary [ 1.2s] 7/9 tests run: 6 passed, 1 failed, 0 skipped"], (6, 1, 0)),
        (["test result: FAILED. 12 passed; 2 failed; 1 ignored; 0 measured; 0 filtered out"], (12, 2, 1)),
        (["test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured"] * 2, (6, 0, 0)),
        (["===== 10 passed, 1 failed, 2 skipped, 1 error in 1.23s ====="], (10, 2, 2)),
        (["1 failed, 1225 passed, 2 warnings in 125.20s (0:02:05)"], (1225, 1, 0)),
        (["no tests ran in 0.01s"], (0, 0, 0)),
        (["Ran 62 tests in 1.2s", "", "OK (skipped=2)"], (60, 0, 2)),
        (["Ran 62 tests in 1.2s", "", "FAILED (failures=1, errors=2, skipped=2)"], (57, 3, 2)),
        (["Ran 1 test in 1.2s", "", "OK", "Ran 2 tests in 0.1s", "", "OK"], (3, 0, 0)),
        (["3 passed, 1 failed"], (3, 1, 0)),
        (["7 passed, 0 failed, 4 skipped"], (7, 0, 4)),
        (["it passed, 1 failed thought", "OK", "test a ... ok"], (0, 0, 0)),
    ],
)
def test_closing_lines_are_counted(
    script: ModuleType, lines: list[str], passed_failed_skipped: tuple[int, int, int]
) -> None:
    reader = script.Reader()
    for line in lines:
        reader.line(line + "\n")
    assert tuple(reader.count) == passed_failed_skipped


@pytest.mark.parametrize(
    ("code", "passed_failed"),
    [
        ("print('2 passed, 0 failed')", (2, 0)),
        ("print('2 passed, 1 failed'); raise SystemExit(1)", (2, 1)),
        ("print('2 passed, 0 failed'); raise SystemExit(1)", (2, 1)),
        ("raise SystemExit(0)", (0, 1)),
        ("import time; print('2 passed, 0 failed', flush=True); time.sleep(60)", (2, 1)),
    ],
)
def test_a_part_that_breaks_hangs_or_runs_nothing_counts_as_failed(
    script: ModuleType, code: str, passed_failed: tuple[int, int]
) -> None:
    count = script.run(script.Part("sample", [sys.executable, "-c", code], 2))
    assert tuple(count)[:2] == passed_failed
