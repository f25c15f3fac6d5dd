"""A pytest plugin for FlashAttention-3's own tests: what flashcore does not have yet is skipped, with its reason, and
the last lines count everything. With FA3_REHEARSAL=1 tensors for CUDA devices are made in CPU memory, so that the
emulator computes and no GPU is needed: a way to try the smallest of the tests."""

import collections
import contextlib
import os
import traceback

import pytest
import torch
from torch.overrides import TorchFunctionMode

COUNTS = collections.Counter()
REASONS = collections.Counter()


class OnTheCpu(TorchFunctionMode):
    """Takes ``device="cuda"`` for the CPU."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if kwargs.get("device") == "cuda":
            kwargs["device"] = "cpu"
        return function(*args, **kwargs)


REHEARSAL = os.environ.get("FA3_REHEARSAL") == "1"
if REHEARSAL:
    torch.cuda.get_device_capability = lambda device=None: (9, 0)


def pytest_collection_modifyitems(items):
    """Tests of functions that do not exist at all need not compute their reference first."""
    from flashcore import flash_attn_interface as interface

    missing = {"flash_attn_3": "flashcore has no operators torch.ops.flash_attn_3, and needs none"}
    try:
        interface.flash_attn_combine()
    except NotImplementedError as error:
        missing["flash_attn_combine"] = str(error)
    for item in items:
        for name in item.function.__code__.co_names:
            if name in missing:
                item.add_marker(pytest.mark.skip(reason=missing[name]))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    try:
        with OnTheCpu() if REHEARSAL else contextlib.nullcontext():
            return (yield)
    except NotImplementedError as error:
        if not str(error).startswith("flashcore has no"):
            raise
        # The test's tensors, 70 GB of them at times, live in the frames that the error came through.
        traceback.clear_frames(error.__traceback__)
        pytest.skip(str(error))


def pytest_runtest_logreport(report):
    if report.when == "call" or (report.when == "setup" and not report.passed):
        COUNTS[report.outcome] += 1
        if report.skipped:
            REASONS[report.longrepr[2].removeprefix("Skipped: ") or "not a case of the suite"] += 1


def pytest_terminal_summary(terminalreporter):
    passed, failed, skipped = (COUNTS[outcome] for outcome in ("passed", "failed", "skipped"))
    terminalreporter.section("FlashAttention-3's tests on flashcore")
    terminalreporter.line(f"{passed + failed} run: {passed} passed, {failed} failed; {skipped} skipped:")
    for reason, count in REASONS.most_common():
        terminalreporter.line(f"  {count:6} {reason}")
