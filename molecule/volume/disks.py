"""The disks of the scenario: loop devices of this machine over sparse files. `disks.py attach FOLDER`, `disks.py detach`."""

import os
import stat
import subprocess
import sys
from pathlib import Path

MB = 1024 * 1024
SIZES = {60: 600 * MB, 61: 300 * MB, 62: 300 * MB}  # by the number of the loop device
LOOP = 7  # major number


def device(number: int) -> str:
    """Return the name of a loop device."""
    return f"/dev/loop{number}"


def backing(number: int) -> str:
    """Return the file that a loop device shows; empty when it is not attached."""
    shown = subprocess.run(
        ["losetup", "--noheadings", "--output", "BACK-FILE", device(number)],
        capture_output=True,
        text=True,
        check=False,
    )
    return shown.stdout.strip().removesuffix(" (deleted)") if shown.returncode == 0 else ""


def attach(number: int, image: Path, *options: str) -> None:
    """Let a loop device show a file."""
    if not os.path.exists(device(number)):
        os.mknod(device(number), 0o660 | stat.S_IFBLK, os.makedev(LOOP, number))
    subprocess.run(["losetup", *options, device(number), str(image)], check=True)


def detach(number: int) -> None:
    """Let a loop device show nothing."""
    if backing(number):
        subprocess.run(["losetup", "--detach", device(number)], check=True)


def main() -> None:
    """Attach all disks, new, with files in a folder; or detach them."""
    for number, size in SIZES.items():
        image = backing(number)
        if image and "molecule" not in image:
            sys.exit(
                f"{device(number)} is somebody else's: it shows {image}. Detach it, or change SIZES in {__file__}."
            )
        detach(number)
        if sys.argv[1] == "attach":
            image = Path(sys.argv[2], f"disk-{number}.img")
            image.parent.mkdir(parents=True, exist_ok=True)
            image.unlink(missing_ok=True)
            with image.open("wb") as file:
                file.truncate(size)
            attach(number, image)


if __name__ == "__main__":
    main()
