"""A judge behind an OpenAI-compatible endpoint: asked with retries, its replies kept in a file."""

import contextlib
import hashlib
import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from urllib.parse import urlsplit

from .files import lines_text, read_records
from .task import Asker

SYSTEM_ENDS = "\n---\n"  # what stands before it in a prompt is the system's message, the rest the user's
_BUSY = (408, 409, 425, 429, 500, 502, 503, 504)
_NUM_TRIES = 6
_TIMEOUT_S = 120.0  # of one try
_NUM_AT_ONCE = 8


def endpoint(url: str, model: str, *, key: str | None = None, cache: Path | None = None) -> Asker:
    """A judge that is asked over HTTP, with temperature 0; `url` is up to and without "/chat/completions".

    `key` is sent as a bearer token. `cache` has JSON lines of replies: a cached prompt is not asked again, a
    new reply is added at once.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise ValueError(f"judge_url must begin with http:// or https://, got {url!r}")
    known = _cached(cache, model)
    lock = Lock()
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    address = f"{url.rstrip('/')}/chat/completions"

    def reply_to(prompt: str) -> str:
        if prompt in known:
            return known[prompt]
        *system, user = prompt.split(SYSTEM_ENDS, 1)
        messages = [{"role": "system", "content": text} for text in system]
        messages.append({"role": "user", "content": user})
        body = json.dumps({"model": model, "messages": messages, "temperature": 0}).encode()
        reply = _asked(urllib.request.Request(address, body, headers))
        entry = {"model": model, "sha256": hashlib.sha256(prompt.encode()).hexdigest()}
        with lock:
            known[prompt] = reply
            if cache is not None:
                with cache.open("a", encoding="utf-8") as file:
                    file.write(lines_text([entry | {"prompt": prompt, "reply": reply}]))
        return reply

    def ask(prompts: Sequence[str]) -> list[str]:
        with ThreadPoolExecutor(_NUM_AT_ONCE) as pool:
            return list(pool.map(reply_to, prompts))

    return Asker(f"{model} at {urlsplit(url).netloc}", ask)


def _cached(cache: Path | None, model: str) -> dict[str, str]:
    """The model's replies by prompt."""
    if cache is None or not cache.exists():
        return {}
    text = cache.read_bytes()
    if text and not text.endswith(b"\n"):  # killed while it wrote: the rest of a line is no reply
        cache.write_bytes(text[: text.rfind(b"\n") + 1])
    records = (record for record in read_records(cache) if record.text("model") == model)
    return {record.text("prompt"): record.text("reply") for record in records}


def _asked(request: urllib.request.Request) -> str:
    """The words of the reply; a busy or silent endpoint is asked again, later each time."""
    url, why = request.full_url, ""
    for attempt in range(_NUM_TRIES):
        if attempt:
            time.sleep(2.0**attempt)
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as reply:
                value = json.loads(reply.read())
            break
        except urllib.error.HTTPError as error:
            why = f"HTTP {error.code}: {error.read(300).decode(errors='replace').strip()}"
            if error.code not in _BUSY:
                refusal = f"the judge at {url} refuses: {why}; see --judge-url, --judge-model"
                raise ValueError(refusal) from error
        except (OSError, http.client.HTTPException, json.JSONDecodeError) as error:
            why = f"{type(error).__name__}: {error}"
    else:
        raise OSError(
            f"the judge at {url} did not answer in {_NUM_TRIES} tries, the last: {why}. Replies so far are "
            "kept where --judge-cache says; run again to go on"
        )
    with contextlib.suppress(KeyError, IndexError, TypeError):
        if isinstance(content := value["choices"][0]["message"]["content"], str):
            return content
    got = str(value)[:200]
    raise ValueError(f"the judge at {url} must reply with choices[0].message.content, got {got!r}")
