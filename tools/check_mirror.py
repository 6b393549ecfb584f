"""Fail unless tests/unit mirrors src/rallypoint: one test file for each module, none for a module that is gone.

``__init__`` files that only re-export need no test of their own; the thin modules at torch's import paths are tested
together by ``tests/unit/elastic/test_paths.py``.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "rallypoint"
TESTS = ROOT / "tests" / "unit"

# Test files that mirror no single module, with what they cover instead.
WITHOUT_MODULE = {
    Path("test_exports.py"): "the package's public names",
    Path("test_native_build.py"): "tools/generate_spec.py, native/build.py and hatch_build.py",
    Path("errors/test_tree.py"): "the page of all exceptions",
    Path("elastic/test_paths.py"): "every module at one of torch's import paths",
}

# Packages and modules that are torch's import paths and hold nothing of their own.
IMPORT_PATHS = {"elastic", "launcher", "run.py"}


def expected_tests() -> set[Path]:
    """Give the test file that each module must have, relative to tests/unit."""
    modules = (path.relative_to(SOURCE) for path in SOURCE.rglob("*.py"))
    return {
        module.parent / f"test_{module.name}"
        for module in modules
        if module.name not in ("__init__.py", "__main__.py") and module.parts[0] not in IMPORT_PATHS
    }


def main() -> int:
    """Print what is missing or left over; give 1 if anything is."""
    expected = expected_tests()
    present = {path.relative_to(TESTS) for path in TESTS.rglob("test_*.py")}
    missing = sorted(expected - present)
    orphans = sorted(present - expected - set(WITHOUT_MODULE))
    for path in missing:
        print(
            f"no test mirrors src/rallypoint/{path.parent / path.name.removeprefix('test_')}: write tests/unit/{path}"
        )
    for path in orphans:
        print(f"tests/unit/{path} mirrors no module: move or remove it")
    if not missing and not orphans:
        print(f"mirror: {len(expected)} modules, each with its test file")
    return 1 if missing or orphans else 0


if __name__ == "__main__":
    sys.exit(main())
