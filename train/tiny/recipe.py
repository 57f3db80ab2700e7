"""Remake the embedded model: encoders, clips, language model. `longcompress train tiny --out FOLDER`."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import gelu
from torch.utils.data import DataLoader

from ...compression.state import MergeState
from ...config_values import load_config
from ...encoders import AudioEncoder, StockVision, VisionEncoder, tokens_a_second
from ...encoders.stock import encoder_state
from ...llm import CausalLM
from ...llm.live import CausalParts
from ...llm.prompt import encode
from ...model import LongCompress
from ...presets import load, new_tiny
from ...synthetic.scenes import OBJECTS, SOUNDS
from ..data.live_samples import LiveTask, collate_live
from ..data.sampler import Batches
from ..engine import Engine
from ..stages import last_checkpoint, steps_done
from ..trainer import run
from . import omni, vl
from .clips import Clip, Mix, Videos, load_clips, make_clips, save_clips
from .duet import DuetConfig, LiveVideos, with_heads
from .encoders import EncoderConfig, EncoderTask, audio_samples, frame_samples, learn_scenes, scenes, score
from .live_clips import LIVE_CLIP_CLASSES, LiveClip, make_live_clips
from .omni_audio import train_audio
from .vl_score import score_answers
from .vl_vision import train_vision

CPU = Engine(device="cpu", report=[])
CLIPS, HEADS = "clips.safetensors", "heads.safetensors"
VALIDATION = 15  # unseen videos that a stock model is asked about, every 500 steps
Stage = Literal["encoders", "clips", "lm"]
RECIPE = Path(__file__).parents[1] / "recipes" / "tiny.yaml"


@dataclass(frozen=True)
class TinyRecipe:
    """All of it.

    Attributes:
        kind: "tiny"; "vl": a small Qwen3-VL; "omni": a small thinker of Qwen3-Omni, which sees as `tiny-vl`.
            Of both width and layers have no effect, and video or audio where it trains no such encoder.
            "duet": recipe.init with heads that say when to speak.
        init: preset or folder of a model whose language model is trained on; "": a new model.
        seed: of weights and videos; videos of training have scene numbers that evaluation never uses.
        width, layers: of the language model.
        video, audio: training of the encoders.
        clips: number of clips that videos are spliced from.
        clip_s: length of each.
        scenes: options of make_scene for them.
        detail: tokens that a segment of a clip keeps, by stream.
        mixes: stages of the language model's training, one after the other; of a duet without effect.
        duet: what a duet learns.
        lr: highest learning rate of the language model.
        warmup: steps to it.
        decay: share of the steps, at the end, in which it falls to a tenth.
        bf16: autocast the language model to bfloat16.
        threads: torch threads of the training process.
    """

    kind: Literal["tiny", "vl", "omni", "duet"] = "tiny"
    init: str = ""
    seed: int = 0
    width: int = 128
    layers: int = 4
    video: EncoderConfig = field(default_factory=lambda: EncoderConfig(3000, 64, 2e-3))
    audio: EncoderConfig = field(default_factory=lambda: EncoderConfig(300, 16, 2e-3))
    clips: int = 1500
    clip_s: float = 60.0
    scenes: dict[str, Any] = field(default_factory=dict)
    detail: dict[str, int] = field(default_factory=lambda: {"video": 48, "*": 10})
    mixes: list[Mix] = field(default_factory=list)
    duet: DuetConfig = field(default_factory=DuetConfig)
    lr: float = 2e-3
    warmup: int = 60
    decay: float = 0.4
    bf16: bool = True
    threads: int = 1


def train_tiny(out: str | Path, recipe: TinyRecipe | None = None, *, start: Stage = "encoders") -> Path:
    """Train the embedded model, or recipe.init with its own encoders and projectors; save it in `out`.

    Args:
        out: folder; stages are kept in it, so that an interrupted run goes on with start="clips" or "lm", the
            language model from its last checkpoint.
        recipe: None: train/recipes/tiny.yaml.
        start: first stage to run; of recipe.init, the encoders are never trained.
    """
    out = Path(out)
    recipe = recipe or load_config(TinyRecipe, RECIPE)
    torch.set_num_threads(recipe.threads)
    start_s = time.perf_counter()
    if recipe.kind == "duet" and not recipe.init:
        raise ValueError('init must name the model that a duet is trained from, such as "tiny", got ""')
    out.mkdir(parents=True, exist_ok=True)
    new_stock = {"vl": vl.new_model, "omni": omni.new_model}.get(recipe.kind)
    if start == "encoders" and not recipe.init:
        if new_stock:
            model, heads = new_stock(recipe.seed), {}
            if recipe.kind == "vl":
                lm, tokenizer = model.llm.lm, model.llm.tokenizer
                scores = train_vision(lm, tokenizer, recipe.video, recipe.seed, out / "video")
            else:
                scores = train_audio(model, recipe.audio, recipe.seed, out / "audio")
            print(f"{recipe.kind} encoder, accuracy on unseen scenes: {scores}", flush=True)
        else:
            model = new_tiny(recipe.seed, width=recipe.width, layers=recipe.layers)
            heads = train_encoders(model, recipe, out)
        model.save_pretrained(out / "encoders")
        save_file(heads, out / "encoders" / HEADS)
    trained = load(recipe.init or str(out / "encoders"), device="cpu")
    if start != "lm":
        first = (recipe.seed + 1) * 1_000_000
        options = (trained, range(first, first + recipe.clips), recipe.clip_s, recipe.detail)
        if recipe.kind == "duet":
            save_clips(make_live_clips(*options, **recipe.scenes), out / CLIPS, LIVE_CLIP_CLASSES)
        else:
            save_clips(make_clips(*options, **recipe.scenes), out / CLIPS)
    assert trained.folder is not None
    known = trained.folder / HEADS  # tiny-duet has none: its encoders are tiny's
    heads = load_file(known) if recipe.kind != "duet" or known.is_file() else {}
    if recipe.kind == "duet":
        model = with_heads(trained)
        clips = load_clips(out / CLIPS, LIVE_CLIP_CLASSES)
        train_heads(model, clips, recipe, out, resume=start == "lm")
        return save(model, heads, recipe, out, start_s)
    clips, model = load_clips(out / CLIPS), trained
    if not recipe.init and new_stock:  # the trained encoder, and a language model that is new
        model = new_stock(recipe.seed)
        model.llm.lm.load_state_dict(encoder_state(trained.llm.lm), strict=False)
    elif not recipe.init:  # the trained encoders, and a language model and projectors that are new
        model = new_tiny(recipe.seed, width=recipe.width, layers=recipe.layers)
        model.video, model.audio = trained.video, trained.audio
        print(f"explained variance of the projectors' init: {align(model, clips, heads)}", flush=True)
    train_lm(model, clips, recipe, out, resume=start == "lm")
    return save(model, heads, recipe, out, start_s)


def save(
    model: LongCompress, heads: dict[str, Tensor], recipe: TinyRecipe, out: Path, start_s: float
) -> Path:
    """The folder of a trained model, with the encoders' `heads`, if known, and what it was trained by since
    start_s."""
    model.eval().save_pretrained(out / "model", include_base=True)
    if heads:
        save_file(heads, out / "model" / HEADS)  # bench quality reads merged tokens with them
    known = asdict(recipe) | {"init": Path(recipe.init).name}  # what is shipped says nothing of this machine
    report = {"minutes": (time.perf_counter() - start_s) / 60, "recipe": known}
    (out / "model" / "training.json").write_text(json.dumps(report, indent=2) + "\n")
    return out / "model"


def train_heads(
    model: LongCompress, clips: list[LiveClip], recipe: TinyRecipe, out: Path, *, resume: bool = False
) -> None:
    """The language model and heads of a duet on live sessions; encoders stay. With `resume` from its last
    checkpoint in `out`, if it has any.

    Raises:
        ValueError: there is no stage, no such projector, or a parameter gets no gradient.
    """
    config, llm = recipe.duet, model.llm
    if not config.mixes:
        raise ValueError("duet.mixes must have a stage, got none")
    if unknown := sorted(set(config.projectors) - set(llm.project)):
        raise ValueError(f"duet.projectors must be of {[*llm.project]}, got {unknown}")
    unfreeze_llm(model, config.projectors)
    assert isinstance(llm, CausalLM)
    parts = CausalParts(llm)
    learn_videos(
        LiveTask(llm, config.positive, config.heads),
        LiveVideos(clips, empty_state(model, recipe), config.mixes, recipe.seed), recipe, out, resume=resume,
        save_steps=100, workers=0, rates=config.rates, collate=lambda items: collate_live(items[0], parts),
    )  # fmt: skip


def unfreeze_llm(model: LongCompress, projectors: Sequence[str] = ()) -> None:
    """Let the language model, and the projectors of these streams, learn; nothing else."""
    model.requires_grad_(False)
    model.llm.requires_grad_(True)
    model.llm.project.requires_grad_(False)
    for stream in projectors:
        model.llm.project[stream].requires_grad_(True)


def empty_state(model: LongCompress, recipe: TinyRecipe) -> MergeState:
    """What clips are put into: a state without segments, which were merged to `recipe.detail`."""
    merge = replace(model.config.merge, tokens_per_segment=recipe.detail)
    return replace(model.merge_state(), merge=merge)


def learn_videos(
    module: nn.Module, videos: Videos | LiveVideos, recipe: TinyRecipe, out: Path, *, resume: bool,
    save_steps: int, workers: int = CPU.workers, **options: Any,
) -> None:  # fmt: skip
    """Train on the batches of videos; with `resume` from the last checkpoint in `out`, if it has any.

    `options` are of `run`.

    Raises:
        KeyboardInterrupt: SIGTERM came; a checkpoint of the last step was saved.
        ValueError: a parameter gets no gradient.
    """
    checkpoint = last_checkpoint(out / "lm") if resume else None
    args = replace(CPU, bf16=recipe.bf16, workers=workers).arguments(
        out / "lm", steps=sum(mix.steps for mix in videos.mixes), lr=recipe.lr, warmup=recipe.warmup,
        decay=recipe.decay, save_steps=save_steps, eval_steps=500, seed=recipe.seed,
    )  # fmt: skip
    data = Batches(videos.batch, steps_done(checkpoint))
    if run(module, data, args, muon=True, resume=checkpoint, **options) is None:
        raise KeyboardInterrupt(f"{out}: stopped; start='lm' goes on from the last checkpoint")


def train_encoders(model: LongCompress, recipe: TinyRecipe, out: Path) -> dict[str, Tensor]:
    """Both encoders on drawn scenes; returns the parameters of their linear heads."""
    assert isinstance(model.video, VisionEncoder) and isinstance(model.audio, AudioEncoder)
    tasks = {"video": EncoderTask(model.video), "audio": EncoderTask(model.audio)}
    for kind, task in tasks.items():
        config: EncoderConfig = getattr(recipe, kind)
        task.requires_grad_(True)
        if kind == "video":  # the norm of ConvNeXt's pooled output, which no token passes
            model.video.encoder.layernorm.requires_grad_(False)
        samples = partial({"video": frame_samples, "audio": audio_samples}[kind], seconds=config.seconds)
        learn_scenes(task, samples, config, recipe.seed, out / kind, muon=False, warmup=30, decay=0.5)
        unseen = iter(DataLoader(scenes(samples, recipe.seed + 900), batch_size=64))
        print(f"{kind} encoder, accuracy on unseen scenes: {score(task, unseen, 20)}", flush=True)
    return {f"{kind}.{n}": v for kind, task in tasks.items() for n, v in task.head.state_dict().items()}


@torch.no_grad()
def align(
    model: LongCompress, clips: list[Clip], heads: dict[str, Tensor], num_clips: int = 100
) -> dict[str, float]:
    """Start the projectors where a token gives the embeddings of what the encoder's head sees in it.

    The first layer has a unit for each thing the head knows, on where its logit stands out; the second is the
    least squares map from these units to the embeddings of the words. Returns the variance it explains.
    """
    table = model.llm.lm.get_input_embeddings().weight
    explained = {}
    for stream, known in {"video": OBJECTS, "audio": SOUNDS}.items():
        x = torch.cat([p.groups[stream].tokens.x for c in clips[:num_clips] for p in c.chunks]).float()
        weight, bias = heads[f"{stream}.weight"], heads[f"{stream}.bias"]
        of_video = int(stream == "video")
        if of_video:  # logits of a softmax count against their mean; the last class is background
            weight, bias = weight - weight.mean(0), bias - bias.mean()
        weight, bias = weight[: len(known)], bias[: len(known)]
        logits = x @ weight.t() + bias
        highest = logits.amax(1)
        unit = highest[highest > of_video * highest.max() / 2].median()
        layers: Any = model.llm.project[stream]
        first, second = layers[0], layers[2]
        first.weight[: len(known)] = 4 * weight / unit
        first.bias[: len(known)] = 4 * bias / unit - 2 * of_video
        words = 2 * torch.stack([table[encode(model.llm.tokenizer, n)].mean(0) for n in known])
        target = (logits / unit * 2 - of_video).clamp(0, 1) @ words
        hidden = gelu(first(x))
        hidden = torch.cat([hidden[:, : len(known)], torch.ones(len(x), 1)], 1)
        fit = torch.linalg.lstsq(hidden, target).solution
        second.weight[:, : len(known)] = fit[:-1].t()
        second.weight[:, len(known) :] *= 0.1
        second.bias.copy_(fit[-1])
        left = (second(gelu(first(x))) - target).square().sum()
        explained[stream] = 1 - float(left / (target - target.mean(0)).square().sum())
    model.llm.untrained.clear()
    init_as_matcher(model)
    return explained


@torch.no_grad()
def init_as_matcher(model: LongCompress) -> None:
    """Initialise its language model as a matcher: similar tokens attend to each other and are copied."""
    for layer in model.llm.lm.model.layers:
        attention = layer.self_attn
        attention.k_proj.weight.copy_(attention.q_proj.weight)
        attention.o_proj.weight.copy_(attention.v_proj.weight.t())


def train_lm(
    model: LongCompress, clips: list[Clip], recipe: TinyRecipe, out: Path, *, resume: bool = False
) -> None:
    """The language model on spliced videos; with `resume` from its last checkpoint in `out`, if it has any.

    The projectors stay as `align` made them: trained along, they leave the words before these have learned to
    find what they name. So do all encoders.
    """
    unfreeze_llm(model)
    raw_a_second = 16 * model.config.media.rate_fps + 1
    options: dict[str, Any] = {"collate": lambda items: model.llm.collate(items[0])}
    if isinstance(model.video, StockVision):
        parts = [part for part in (model.video, model.audio) if part is not None]
        raw_a_second = sum(tokens_a_second(part, recipe.clip_s, model.config.media) for part in parts)
        for value in encoder_state(model.llm.lm).values():
            value.requires_grad_(False)
        options["validate"] = lambda _: {k: s["score"] for k, s in score_answers(model, VALIDATION).items()}
    videos = Videos(clips, empty_state(model, recipe), recipe.mixes, recipe.seed, raw_a_second)
    learn_videos(model.llm, videos, recipe, out, resume=resume, save_steps=250, **options)
