"""``python -m flashcore``: what runs here, and whether it computes right."""

import argparse
import platform
import sys

from . import _library, _selftest
from ._errors import DeviceError, Error


def _device(ordinal: int) -> tuple[_library.Device, str]:
    """The CUDA device, or the emulated one and why."""
    try:
        return _library.cuda(ordinal), ""
    except DeviceError as error:
        return _library.emulated(), f" ({error})"


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m flashcore",
        description="Prints versions and the device, and compares attention with a float64 reference, "
        "on the emulated device if there is no Hopper GPU. The exit status is 1 if something is wrong.",
        epilog="Example: python -m flashcore --device 1",
    )
    parser.add_argument("--device", type=int, default=0, metavar="N", help="CUDA device (default: 0)")
    arguments = parser.parse_args()
    if arguments.device < 0:
        parser.error(f"--device {arguments.device}: devices count from 0")
    try:
        device, reason = _device(arguments.device)
        properties = device.properties
        print(f"flashcore  {_library.VERSION}, {_library.KERNEL_COUNT} kernels")
        print(f"python     {platform.python_version()}, {platform.machine()}, {' '.join(platform.libc_ver())}")
        print(f"device     {properties.name.decode()}{reason}")
        if not properties.is_emulated:
            version = properties.driver_version
            print(f"driver     CUDA {version // 1000}.{version % 1000 // 10}")
        wrong = 0
        for case in _selftest.CASES:
            result = _selftest.run(device, case)
            wrong += not result.right
            print(f"{case.name:<11}{result}")
    except Error as error:
        print(f"flashcore: {error}", file=sys.stderr)
        return 1
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
