"""A C++ tree with the outside of native/ and nothing inside: it configures and compiles in a second or two."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

CMAKE = """\
cmake_minimum_required(VERSION 3.24)
project(tiny LANGUAGES CXX)
set(CMAKE_CXX_STANDARD 17)
set(CMAKE_LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/out)
set(CMAKE_BUILD_RPATH "$ORIGIN")
set(CMAKE_BUILD_RPATH_USE_ORIGIN ON)
add_link_options(LINKER:--disable-new-dtags)
find_package(Python REQUIRED COMPONENTS Interpreter Development.Module)
add_library(deploykit_engine SHARED engine.cpp other.cpp)
target_include_directories(deploykit_engine PRIVATE include)
Python_add_library(_deploykit_native MODULE WITH_SOABI module.cpp)
target_link_libraries(_deploykit_native PRIVATE deploykit_engine)
"""
HEADER = "#define DEPLOYKIT_ABI_VERSION 7\n"
ENGINE = """\
#include "deploykit/engine.h"
int tiny_abi_version() { return DEPLOYKIT_ABI_VERSION; }
"""
OTHER = "int tiny_other() { return 1; }\n"
MODULE = """\
#include <Python.h>
#include "include/deploykit/engine.h"
int tiny_abi_version();
static PyObject* abi_version(PyObject*, PyObject*) { return PyLong_FromLong(tiny_abi_version()); }
static PyObject* built_devices(PyObject*, PyObject*) { return Py_BuildValue("[s]", "cpu"); }
static PyObject* cpu_isas(PyObject*, PyObject*) { return Py_BuildValue("[s]", "scalar"); }
static PyMethodDef methods[] = {{"abi_version", abi_version, METH_NOARGS, ""},
                                {"built_devices", built_devices, METH_NOARGS, ""},
                                {"cpu_isas", cpu_isas, METH_NOARGS, ""},
                                {nullptr, nullptr, 0, nullptr}};
static PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_deploykit_native", "", -1, methods};
PyMODINIT_FUNC PyInit__deploykit_native() {
  PyObject* made = PyModule_Create(&definition);
  PyModule_AddIntConstant(made, "ABI_VERSION", DEPLOYKIT_ABI_VERSION);
  return made;
}
"""

_RUN = """
import sys
from pathlib import Path
from deploykit.build import sources
sources.find_sources = lambda: Path(sys.argv[1])
from deploykit.cli.app import main
sys.exit(main(sys.argv[2:]))
"""


def write(folder: Path) -> Path:
    texts = {
        "CMakeLists.txt": CMAKE,
        "include/deploykit/engine.h": HEADER,
        "engine.cpp": ENGINE,
        "other.cpp": OTHER,
        "module.cpp": MODULE,
    }
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(textwrap.dedent(text))
    return folder


def start(tree: Path, *args: str) -> subprocess.Popen[str]:
    """`deploykit ARGS` in a process of its own, with `tree` for its sources."""
    return subprocess.Popen(
        [sys.executable, "-c", _RUN, str(tree), *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
