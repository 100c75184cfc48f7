"""Runs alone, as a program: imports the module at argv[1] and says as JSON what it found. Never imported.

A library that is wrong takes this process with it, not the one that asked.
"""

import importlib.util
import json
import sys

NAME = "_deploykit_native"


def main(path: str) -> dict[str, object]:
    spec = importlib.util.spec_from_file_location(NAME, path)
    if spec is None or spec.loader is None:
        return {"error": "no Python module by its name"}
    try:
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the module raises: the linker's own words, mostly
        return {"error": str(error) or type(error).__name__}
    try:
        return {
            "abi_version": int(module.abi_version()),
            "header_version": int(module.ABI_VERSION),
            "devices": [str(device) for device in module.built_devices()],
            "isas": [str(isa) for isa in module.cpu_isas()],
            "library": loaded_library(),
        }
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


def loaded_library() -> str:
    """The file that the linker took for the library; "" where the system doesn't tell."""
    try:
        with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as maps:
            for line in maps:
                if "libdeploykit_engine" in line:
                    return line.split(maxsplit=5)[5].strip().removesuffix(" (deleted)")
    except OSError:
        pass
    return ""


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1])))
