"""Word error rate of what `annotate --transcribe` writes of prompts, one after the other, with pauses.

    apt-get download asterisk-core-sounds-en-wav asterisk-core-sounds-en    # dpkg-deb -x both into SOUNDS
    python tests/speech.py SOUNDS tiny

Prompts are those with six words or more and no digit, 30 of them from the whole list, in the package's order.
"""

import gzip
import re
import sys
import wave
from pathlib import Path

import numpy as np
import torch

from longcompress.annotate.transcripts import Transcript
from longcompress.llm.transcriber import Transcriber
from longcompress.types import Audio

from assets import whisper_base, whisper_tiny

RATE, PAUSE_S, NUM = 16000, 0.7, 30


def words_of(text: str) -> list[str]:
    """Lower case, letters and apostrophes alone."""
    return re.findall(r"[a-z']+", text.lower())


def prompts_in(folder: Path) -> list[tuple[Path, str]]:
    """(file, text) of the prompts that are taken."""
    (listing,) = folder.rglob("core-sounds-en.txt.gz")
    sounds = {path.stem: path for path in folder.rglob("*.wav")}
    prompts = []
    for line in gzip.decompress(listing.read_bytes()).decode("utf8", "replace").splitlines():
        name, _, text = line.partition(":")
        plain = len(words_of(text)) >= 6 and not re.search(r"[\d\[\](<]", text)
        if plain and name.strip() in sounds:
            prompts.append((sounds[name.strip()], text.strip()))
    return prompts[:: max(1, len(prompts) // NUM)][:NUM]


def samples_of(path: Path) -> torch.Tensor:
    """Its samples at 16 kHz, in between by straight lines."""
    with wave.open(str(path)) as file:
        rate_hz, data = file.getframerate(), file.readframes(file.getnframes())
        assert file.getsampwidth() == 2
        values = np.frombuffer(data, np.int16)[:: file.getnchannels()] / 32768
    at = np.arange(int(len(values) * RATE / rate_hz)) * rate_hz / RATE
    return torch.from_numpy(np.interp(at, np.arange(len(values)), values)).float()


def num_errors(got: list[str], want: list[str]) -> int:
    """The fewest words to change, leave out or put in."""
    row = list(range(len(got) + 1))
    for i, word in enumerate(want, 1):
        before, row[0] = row[0], i
        for j, other in enumerate(got, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (word != other))
    return row[-1]


def measure(folder: Path, name: str) -> None:
    """Print the word error rate, and how far texts begin from their prompts."""
    prompts = prompts_in(folder)
    pieces, starts = [], []
    for path, _ in prompts:
        starts.append(sum(map(len, pieces)) / RATE)
        pieces += [samples_of(path), torch.zeros(round(PAUSE_S * RATE))]
    listener = Transcriber.load({"tiny": whisper_tiny, "base": whisper_base}[name](), dtype=torch.float32)
    transcript = Transcript(listener)
    transcript.push(Audio(torch.cat(pieces), 0.0))
    cues = transcript.finish()
    got, want = (
        words_of(" ".join(texts)) for texts in ([e.text for e in cues.events], [t for _, t in prompts])
    )
    errors = num_errors(got, want)
    away = [min(abs(event.start_s - start_s) for event in cues.events) for start_s in starts]
    print(
        f"{name}: {len(prompts)} prompts, {len(want)} words in {sum(map(len, pieces)) / RATE:.0f} s, WER "
        f"{errors / len(want):.1%}, starts {np.median(away):.2f} s away (median), faults {dict(cues.faults)}"
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    measure(Path(sys.argv[1]), sys.argv[2])
