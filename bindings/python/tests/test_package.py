"""The package itself: what it says of itself, what it imports, when it warns, what it runs."""

import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest

import flashcore

HEADER = Path(__file__).parents[2] / "c/include/flashcore.h"


def python(*arguments):
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)


def header():
    if not HEADER.is_file():
        pytest.skip("the C header is not here")
    return HEADER.read_text()


def test_statuses_are_those_of_the_header():
    expected = dict(re.findall(r"FC_ERROR_(\w+) = (\d+)", header()))
    assert {status.name: str(int(status)) for status in flashcore.Status} == expected


def test_numbers_are_those_of_the_header():
    from flashcore import _library

    expected = dict(re.findall(r"#define FC_(\w+) (\d+)", header()))
    assert expected == {"ABI_VERSION": str(_library.ABI_VERSION), "NAME_BYTES": str(_library.NAME_BYTES)}
    dtypes = dict(re.findall(r"FC_(B?F16) = (\d+)", header()))
    assert dtypes == {"F16": str(_library.F16), "BF16": str(_library.BF16)}
    formats = dict(re.findall(r"FC_(E\dM\d) = (\d+)", header()))
    assert formats == {"E4M3": str(_library.E4M3), "E5M2": str(_library.E5M2)}


def test_functions_are_those_of_the_header():
    from flashcore import _library

    text = re.sub(r"//.*", "", header())
    declared = {name: arguments for name, arguments in re.findall(r"\b(fc_\w+)\(([^)]*)\)", text)}
    for name, (_, arguments) in _library._SIGNATURES.items():
        count = 0 if declared[name].strip() == "void" else declared[name].count(",") + 1
        assert count == len(arguments), name


def test_no_framework_is_imported():
    script = (
        "import sys, flashcore\n"
        "try: flashcore.attention(1, 2, 3)\n"
        "except TypeError: pass\n"
        "print([name for name in ('numpy', 'torch', 'jax', 'cupy', 'ml_dtypes') if name in sys.modules])"
    )
    result = python("-c", script)
    assert result.stdout == "[]\n", result.stderr


def test_a_torch_that_is_too_old_does_not_matter_to_others():
    script = "import sys, types; sys.modules['torch'] = types.ModuleType('torch'); import flashcore; print('imported')"
    result = python("-c", script)
    assert result.stdout == "imported\n", result.stderr


TWO_CALLS = (
    "import numpy, flashcore\n"
    "q = numpy.ones((1, 8, 1, 64), numpy.float16)\n"
    "flashcore.attention(q, q, q)\n"
    "flashcore.attention(q, q, q)\n"
)


def test_the_emulator_says_so_once():
    result = python("-c", TWO_CALLS)
    assert result.returncode == 0 and result.stderr.count("EmulatedWarning") == 1, result.stderr
    assert "<string>:3" in result.stderr  # it points to the caller
    result = python("-W", "always", "-c", TWO_CALLS)
    assert result.stderr.count("EmulatedWarning") == 2
    result = python("-W", "ignore", "-c", TWO_CALLS)
    assert result.stderr == ""
    result = python("-W", "error", "-c", TWO_CALLS)
    assert result.returncode == 1 and "EmulatedWarning" in result.stderr


def test_the_self_test_passes():
    result = python("-m", "flashcore")
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"flashcore  {flashcore.__version__}, " in result.stdout
    assert result.stdout.count("right: largest error") == 2


def test_the_self_test_fails():
    script = (
        "import sys\n"
        "from flashcore import __main__, _selftest\n"
        "sys.argv = ['flashcore']\n"
        "reference = _selftest._reference\n"
        "def shifted(*arguments):\n"
        "    out, lse = reference(*arguments)\n"
        "    return [{}], [{}]\n"
        "_selftest._reference = shifted\n"
        "sys.exit(__main__.main())"
    )
    for out, lse in (("x + 0.1 for x in out", "*lse"), ("*out", "x + 0.001 for x in lse")):
        result = python("-c", script.format(out, lse))
        assert result.returncode == 1 and result.stdout.count("WRONG") == 2, result.stdout + result.stderr


def test_help_and_wrong_arguments():
    result = python("-m", "flashcore", "--help")
    assert result.returncode == 0 and "Example: python -m flashcore" in result.stdout
    assert python("-m", "flashcore", "--device", "-1").returncode == 2


def test_errors_can_be_pickled():
    error = flashcore.ArgumentError("text", flashcore.Status.SCALE)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is flashcore.ArgumentError and (str(copy), copy.status) == ("text", 47)


def test_the_example_of_the_documentation_runs():
    import doctest

    results = doctest.testmod(sys.modules["flashcore._attention"], optionflags=doctest.ELLIPSIS)
    assert results.attempted == 22 and results.failed == 0
