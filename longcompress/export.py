"""A memory of a stock video LLM as what a server takes in the place of a video: tensors, request, README.

The servers are others' programs, at home in other environments: their sources were read, they were not run.
L tokens of the prompt, N rows of features, S stretches of video tokens, D width of the language model.
"""

import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors.torch import save_file
from torch import Tensor

from .files import replacing, write_json
from .llm import StockLM
from .llm.packing import has_state
from .memory import VideoMemory

FORMAT = 1  # of request.json
Server = Literal["sglang", "vllm-image", "vllm-prompt"]
IMAGES = ("qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe")
POSITIONS = ("qwen2_vl", "qwen2_5_vl", *IMAGES)  # SGLang's processor of these takes positions
NAMES = ("tensors.safetensors", "request.json", "README.md")


@dataclass(frozen=True)
class _Prompt:
    """The prompt through the last video token, or through the question.

    Attributes:
        ids: (L,) int64 text and placeholders.
        position: (P, L) their positions.
        is_token: (L,) bool, whether it stands for a row.
        x: (N, D (1 + deepstack)) the rows, in the order of their placeholders.
        next_position: position of what follows.
    """

    ids: Tensor
    position: Tensor
    is_token: Tensor
    x: Tensor
    next_position: int

    @property
    def runs(self) -> Tensor:
        """(S, 2) int64 index of the first and of the last placeholder of each stretch."""
        flag = torch.cat([torch.zeros(1), self.is_token.float(), torch.zeros(1)]).diff()
        return torch.stack([(flag > 0).nonzero()[:, 0], (flag < 0).nonzero()[:, 0] - 1], 1)


@dataclass(frozen=True)
class _Form:
    """What a server takes.

    Attributes:
        program: its name and the version whose source was read.
        start: words of the command that starts it.
        tensors: (model, prompt) -> tensors of the file.
        request: what to send, a tensor by {"tensor": name}.
        engine: (tensors, length) -> options of the server, as its Python class takes them.
        send: Python that sends `request`, in which the tensors are.
        ask: Python that puts the ids `tail` of another question into `request`.
        proof: what was compared in transformers.
    """

    program: str
    start: str
    tensors: Callable[[StockLM, _Prompt], dict[str, Tensor]]
    request: dict[str, Any]
    engine: Callable[[dict[str, Tensor], int], dict[str, Any]]
    send: str
    ask: str
    proof: str


def export(memory: VideoMemory, server: Server, folder: str | Path, question: str | None = None) -> Path:
    """The folder with tensors.safetensors, request.json and README.md that make a server answer about a
    memory.

    Args:
        memory: of a stock video LLM, without audio.
        server: "sglang": rows with their positions. "vllm-image": every stretch as an image of 1 x n patches,
            timestamps as text. "vllm-prompt": embeddings of the whole prompt.
        folder: made if it isn't there.
        question: its ids come behind the video; None: they are left to whoever sends the request.

    Raises:
        ValueError: the server can't take this model's tokens.
    """
    if server not in get_args(Server):
        raise ValueError(f"server must be one of {', '.join(get_args(Server))}, got {server!r}")
    llm, form = _model_of(memory, server), FORMS[server]
    if hasattr(llm.lm, "peft_config"):
        warnings.warn("the model has a LoRA adapter, which the server must load too", stacklevel=2)
    layout = llm.prompt.lay_out(memory.video)
    tail = torch.tensor([] if question is None else llm.prompt.tail(layout, question), dtype=torch.int64)
    position = torch.cat([layout.position, llm.prompt.behind(layout, torch.arange(len(tail)))], 1)
    ids = torch.cat([layout.ids, tail])
    prompt = _Prompt(
        ids, position, ids == llm.prompt.placeholders[0], _rows(memory, llm, layout.rows["video"]),
        round(layout.next_position) + len(tail),
    )  # fmt: skip
    tensors = form.tensors(llm, prompt)
    (text,) = llm.prompt.parts(layout, ["{question}"])
    max_tokens = llm.settings.max_new_tokens
    dtype = {"dtype": str(prompt.x.dtype).removeprefix("torch.")}
    content = {
        "format": FORMAT, "for": server, "read_in": form.program, "model": llm.settings.base,
        "engine": form.engine(tensors, max(prompt.next_position, len(ids)) + max_tokens) | dtype,
        "max_tokens": max_tokens,
        "request": form.request,
        "question": {
            "question": question, "first_id": len(tensors["prompt_token_ids"]) - len(tail),
            "position": round(layout.next_position), "text": llm.prompt.closed(layout, text),
        },
    }  # fmt: skip
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / NAMES[0]) as part:
        save_file({name: value.cpu().contiguous() for name, value in tensors.items()}, part)
    write_json(folder / NAMES[1], content, indent=1)
    with replacing(folder / NAMES[2]) as part:
        part.write_text(_readme(content, form, tensors) + "\n", encoding="utf8")
    return folder


def _model_of(memory: VideoMemory, server: str) -> StockLM:
    """The memory's language model; ValueError where the server can't take its tokens."""
    model = memory.model
    if model is None:
        raise ValueError("memory has no model; use longcompress.load_memory(path, model)")
    llm = model.llm
    if not isinstance(llm, StockLM):
        raise ValueError(
            f"memory must be of a stock video LLM, which servers know, got model {model.config.name!r}; "
            "compress the video with a stock model (docs/models.md)"
        )
    if len(memory.streams.get("audio", ())) or not len(memory.streams.get("video", ())):
        raise ValueError(
            f"memory must have video and no audio for {server}, got streams {list(memory.streams)}; compress "
            "the video with --media.audio false"
        )
    if why := _refusal(llm, server):
        raise ValueError(f"{server} can't take tokens of {llm.base.config.model_type!r}: {why}")
    return llm


def _refusal(llm: StockLM, server: str) -> str:
    """Why the server can't take the model's tokens, and what can; empty if it can."""
    family, kind = llm.family, llm.base.config.model_type
    if family.token_types:
        return "its layers need the ids of video tokens, which embeddings don't have; answer with `ask`"
    if server == "vllm-prompt":
        if family.positions != "plain":
            other = "sglang" if kind in POSITIONS else "`ask`"
            return f"its positions have three axes, and vLLM counts embeddings as text; take {other}"
        if has_state(llm.lm):
            return (
                "some of its layers carry a state, which was never tried with embeddings; answer with `ask`"
            )
        return ""
    if family.positions == "plain":
        other = "answer with `ask`" if has_state(llm.lm) else "take vllm-prompt"
        return f"its positions have one axis; {other}"
    if family.float_clock:
        return "its positions in time are fractions, and the servers' are whole numbers; answer with `ask`"
    if server == "vllm-image" and family.positions == "clock":
        return "its time is in positions, which images don't have; take sglang"
    known = POSITIONS if server == "sglang" else IMAGES
    return "" if kind in known else f"only {', '.join(known)} are known to be taken; answer with `ask`"


def _rows(memory: VideoMemory, llm: StockLM, rows: Tensor) -> Tensor:
    """(N, D (1 + deepstack)) the rows of the prompt's placeholders, in the model's dtype."""
    dtype = llm.lm.get_input_embeddings().weight.dtype
    x = memory.streams["video"].x
    x = x[rows.to(x.device)].to("cpu", dtype)
    end = llm.family.end_rows(llm.base)
    return x if end is None else torch.cat([x, end.detach().to("cpu", dtype)])


def _video_item(llm: StockLM, prompt: _Prompt) -> dict[str, Tensor]:
    return {
        "feature": prompt.x, "prompt_token_ids": prompt.ids, "offsets": prompt.runs,
        "mrope_positions": prompt.position,
        "mrope_position_delta": torch.tensor([[prompt.next_position - len(prompt.ids)]]),
    }  # fmt: skip


def _images(llm: StockLM, prompt: _Prompt) -> dict[str, Tensor]:
    """A placeholder for each image; the server widens it to the n tokens of its grid (1, 2, 2n)."""
    first, last = prompt.runs.unbind(1)
    num = last - first + 1
    keep = ~prompt.is_token
    keep[first] = True
    ids = prompt.ids.masked_fill(prompt.is_token, llm.base.config.image_token_id)[keep]
    merge = int(llm.base.config.vision_config.spatial_merge_size)
    grid = torch.stack([torch.ones_like(num), torch.full_like(num, merge), merge * num], 1)
    return {"image_embeds": prompt.x, "image_grid_thw": grid, "prompt_token_ids": ids}


def _embeddings(llm: StockLM, prompt: _Prompt) -> dict[str, Tensor]:
    table = llm.lm.get_input_embeddings()
    with torch.no_grad():
        x = table(prompt.ids.to(llm.lm.device)).cpu()
    x[prompt.is_token] = prompt.x
    return {
        "prompt_embeds": x, "prompt_token_ids": prompt.ids, "prompt_is_token_ids": ~prompt.is_token,
    }  # fmt: skip


# --- what the folder says of itself


def _readme(content: dict[str, Any], form: _Form, tensors: dict[str, Tensor]) -> str:
    rows = [f"| `{name}` | {tuple(t.shape)} | {str(t.dtype)[6:]} |" for name, t in tensors.items()]
    command = [form.start, content["model"]]
    for name, value in content["engine"].items():
        command.append(f"--{name.replace('_', '-')}")
        if value is not True:
            command.append(f"'{json.dumps(value)}'" if isinstance(value, dict) else str(value))
    return README.format(
        program=form.program, command=" ".join(command), rows="\n".join(rows), ask=form.ask, send=form.send,
        proof=form.proof,
    )  # fmt: skip


README = """# A compressed video for {program}

`request.json` says what to send. A value {{"tensor": NAME}} in it is a tensor of `tensors.safetensors`:

| tensor | shape | dtype |
|---|---|---|
{rows}

A server needs these flags: `{command}`. In Python, in this folder:

```python
import json

import torch
from safetensors.torch import load_file

with open("request.json") as file:
    content = json.load(file)
tensors = load_file("tensors.safetensors")


def with_tensors(value):
    if isinstance(value, list):
        return [with_tensors(item) for item in value]
    if isinstance(value, dict) and set(value) != {{"tensor"}}:
        return {{name: with_tensors(item) for name, item in value.items()}}
    return tensors[value["tensor"]] if isinstance(value, dict) else value


request = with_tensors(content["request"])
```

The question is in the request if the export had `--question`. Another one takes its place so:

```python
from transformers import AutoTokenizer

place = content["question"]
text = place["text"].replace("{{question}}", "What happens?")
tail = AutoTokenizer.from_pretrained(content["model"])(text, add_special_tokens=False).input_ids
tail = torch.tensor(tail[1:])  # without the placeholder before it, with which it is tokenised as in a prompt
num = place["first_id"]
{ask}
```

```python
{send}
```

{proof} The request follows the source of {program}. It was never sent to a server.
"""

VLLM = """from vllm import LLM, SamplingParams

request["prompt_token_ids"] = request["prompt_token_ids"].tolist(){more}
llm = LLM(content["model"], **content["engine"])
(output,) = llm.generate([request], SamplingParams(max_tokens=content["max_tokens"]))
print(output.outputs[0].text)"""

ITEM = ("feature", "offsets", "mrope_positions", "mrope_position_delta")

FORMS: dict[str, _Form] = {
    "sglang": _Form(
        program="SGLang 0.5.23",
        start="python -m sglang.launch_server --model-path",
        tensors=_video_item,
        request={
            "input_ids": {"tensor": "prompt_token_ids"},
            "video_data": [{
                "format": "precomputed_embedding", "modality": "VIDEO",
                "input_ids": {"tensor": "prompt_token_ids"}, **{n: {"tensor": n} for n in ITEM},
            }],
        },
        engine=lambda tensors, length: {"context_length": length},
        send="""import sglang

item = request["video_data"][0]
item["offsets"] = [tuple(ends) for ends in item["offsets"].tolist()]
request["input_ids"] = request["input_ids"].tolist()
engine = sglang.Engine(model_path=content["model"], **content["engine"])
options = {"max_new_tokens": content["max_tokens"]}
print(engine.generate(**request, sampling_params=options)["text"])""",
        ask="""item, first = request["video_data"][0], place["position"]
item["input_ids"] = request["input_ids"] = torch.cat([request["input_ids"][:num], tail])
position = torch.arange(first, first + len(tail)).expand(3, -1)
item["mrope_positions"] = torch.cat([item["mrope_positions"][:, :num], position], 1)""",
        proof="In transformers, these rows at these positions give the logits of longcompress to the bit.",
    ),
    "vllm-image": _Form(
        program="vLLM 0.33",
        start="vllm serve",
        tensors=_images,
        request={
            "prompt_token_ids": {"tensor": "prompt_token_ids"},
            "multi_modal_data": {"image": {n: {"tensor": n} for n in ("image_embeds", "image_grid_thw")}},
        },
        engine=lambda tensors, length: {
            "enable_mm_embeds": True, "limit_mm_per_prompt": {"image": len(tensors["image_grid_thw"])},
            "max_model_len": length,
        },
        send=VLLM.format(more=""),
        ask="""request["prompt_token_ids"] = torch.cat([request["prompt_token_ids"][:num], tail])""",
        proof="Every stretch is an image of 1 x n patches: rows and columns of tokens are not kept, so "
        "answers differ from those of longcompress. In transformers, the logits are those of longcompress at "
        "such positions, to the bit. Leave flags that prune tokens of videos off.",
    ),
    "vllm-prompt": _Form(
        program="vLLM 0.33",
        start="vllm serve",
        tensors=_embeddings,
        request={
            n: {"tensor": n} for n in ("prompt_embeds", "prompt_token_ids", "prompt_is_token_ids")
        },
        engine=lambda tensors, length: {"enable_prompt_embeds": True, "max_model_len": length},
        send=VLLM.format(
            more="""
request["prompt_is_token_ids"] = request["prompt_is_token_ids"].tolist()"""
        ),
        ask="""rows = request["prompt_embeds"]
request["prompt_embeds"] = torch.cat([rows[:num], rows.new_zeros(len(tail), rows.shape[1])])
request["prompt_token_ids"] = torch.cat([request["prompt_token_ids"][:num], tail])
is_text = torch.ones(len(tail), dtype=torch.bool)
request["prompt_is_token_ids"] = torch.cat([request["prompt_is_token_ids"][:num], is_text])""",
        proof="In transformers, these embeddings give the logits of longcompress to the bit.",
    ),
}  # fmt: skip
