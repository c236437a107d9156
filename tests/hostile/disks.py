"""Full and read-only disks in each phase: one line and exit code 2, nothing is lost, and there is a way on.

    python tests/hostile/disks.py [--sizes 8,24,48,...]

A run is started on a disk of so many kB (a tmpfs; this needs the right to mount), then the disk is made larger and the
run is resumed, or started again where it never began: it must end with the bits of a run that was never disturbed. Then
every command that writes is given a full disk and a read-only one, with a finished run on it.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

SIZES = (8, 24, 40, 64, 96, 128, 160, 200, 256, 320, 400, 512, 700, 1000, 2000, 5000, 6000)
COMMANDS = (
    "report run", "pack run", "pack run --out more/p.safetensors", "load run --out more.pt2", "schema --out s.json",
    "docs --out pages", "resume run", "run recipe.yaml --run other", "measure zoo:mlp",
)  # fmt: skip


def mounts() -> bool:
    """Whether this process may mount."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(["mount", "-t", "tmpfs", "none", folder], capture_output=True, check=False)
        if done.returncode == 0:
            subprocess.run(["umount", folder], check=True)
        return done.returncode == 0


def lessen(*words: str) -> tuple[object, str]:
    """The exit code of a command, or a traceback, and what it said on standard error."""
    from lessen.cli import main

    out, error = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
    try:
        main(list(words))
    except SystemExit as left:
        sys.stderr.seek(0)
        return left.code, sys.stderr.read()
    except BaseException:  # noqa: BLE001  (whatever it is, it is the verdict)
        return traceback.format_exc(limit=-5), ""
    finally:
        sys.stdout, sys.stderr = out, error


def weights(run: Path) -> bytes:
    return (run / "weights.safetensors").read_bytes()


def full(sizes: list[int], ground: Path) -> list[str]:
    """Runs on disks that become full; what was wrong."""
    wrong = []
    for size in sizes:
        with tempfile.TemporaryDirectory() as place:
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "none", place], check=True)
            try:
                os.chdir(ground)
                code, said = lessen("run", "recipe.yaml", "--run", f"{place}/run", "--quiet")
                lines = len(said.splitlines())
                if code not in {0, 2} or (code == 2 and lines != 1):
                    wrong.append(f"{size} kB, run: {code} {said}")
                subprocess.run(["mount", "-o", "remount,size=100m", place], check=True)
                if code != 0:
                    again, more = lessen("resume", f"{place}/run", "--quiet")
                    if again != 0:
                        again, more = lessen("run", "recipe.yaml", "--run", f"{place}/run", "--quiet")
                    if again != 0:
                        wrong.append(f"{size} kB, stuck: {again} {more}")
                        continue
                if weights(Path(place) / "run") != weights(ground / "whole"):
                    wrong.append(f"{size} kB: other bits")
                rest = [str(path) for path in Path(place).rglob("*") if path.name.endswith(".part")]
                wrong += [f"{size} kB: {path} was left" for path in rest]
            finally:
                os.chdir("/")
                subprocess.run(["umount", place], check=True)
    return wrong


def finished(ground: Path, *, read_only: bool) -> list[str]:
    """Commands on a disk with a finished run that is full or read-only; what was wrong."""
    wrong, temporary = [], tempfile.tempdir
    with tempfile.TemporaryDirectory() as place:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100m", "none", place], check=True)
        try:
            disk = Path(place)
            for name in ("recipe.yaml", "data.npz"):
                shutil.copy(ground / name, disk / name)
            shutil.copytree(ground / "whole", disk / "run")
            (disk / "tmp").mkdir()
            if read_only:
                subprocess.run(["mount", "-o", "remount,ro", place], check=True)
            else:
                with (disk / "fill").open("wb") as stream:
                    try:
                        while True:
                            stream.write(bytes(1 << 16))
                            stream.flush()
                    except OSError:
                        pass
            before = {path: path.read_bytes() for path in (disk / "run").rglob("*") if path.is_file()}
            os.chdir(disk)
            tempfile.tempdir = str(disk / "tmp")
            for words in COMMANDS:
                code, said = lessen(*words.split(), *(["--quiet"] if "run recipe" in words else []))
                if code not in {0, 2} or (code == 2 and len(said.splitlines()) != 1):
                    wrong.append(f"{'read-only' if read_only else 'full'}, {words}: {code} {said}")
            after = {path: path.read_bytes() for path in before if path.is_file()}
            wrong += [f"{path} was lost" for path in before if after.get(path) != before[path]]
        finally:
            tempfile.tempdir = temporary
            os.chdir("/")
            subprocess.run(["umount", place], check=True)
    return wrong


def main() -> None:
    """Read the command line, run, and print what was wrong."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)))
    sizes = [int(size) for size in parser.parse_args().sizes.split(",")]
    if not mounts():
        print("skipped: this process may not mount")
        return
    import targets

    with tempfile.TemporaryDirectory() as place:
        ground = Path(place)
        targets.ground(ground)
        # With files for runtimes, whose exporters write in ways of their own.
        files = targets.RECIPE.replace("runtimes: []", "runtimes: [OnnxRuntime, TorchProgram]")
        (ground / "recipe.yaml").write_text(files)
        wrong = [*full(sizes, ground), *finished(ground, read_only=False), *finished(ground, read_only=True)]
    tried = f"{len(sizes)} disks that became full, {2 * len(COMMANDS)} commands on full and read-only disks"
    print(f"{tried}: {len(wrong)} wrong")
    print("\n".join(wrong))
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
