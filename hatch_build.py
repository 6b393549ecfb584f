"""The wheel's build: with the native twin where it can be built, pure where not, and then with the reason in it."""

from __future__ import annotations

import importlib.util
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class NativeTwinHook(BuildHookInterface):  # type: ignore[type-arg]
    """Builds the twin for a wheel, or in its place in ``src`` for an editable installation."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build, and tell hatchling what came of it."""
        build = _load(Path(self.root) / "native" / "build.py")
        if version == "editable":
            build.build_if_possible(Path(self.root) / "src" / "rallypoint", is_quiet=True)
            return
        self._folder = tempfile.TemporaryDirectory(prefix="rallypoint-native-")
        module = build.build_if_possible(Path(self._folder.name), is_quiet=True)
        for path in Path(self._folder.name).iterdir():
            build_data["force_include"][str(path)] = f"rallypoint/{path.name}"
        if module is not None:
            platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
            build_data["pure_python"] = False
            build_data["tag"] = f"cp310-abi3-{platform}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002
        """Remove what was built aside."""
        if version != "editable":
            self._folder.cleanup()


def _load(path: Path) -> Any:
    """Import a file by its path: the build's own import path does not lead to it."""
    spec = importlib.util.spec_from_file_location("rallypoint_native_build", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
