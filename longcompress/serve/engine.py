"""One model for all clients: videos are read by a few threads, questions are answered in batches by another.

Equal videos that are asked about at the same time are read once. What nobody waits for any more stops.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from typing import Any, TypeVar

import torch

from ..llm import CausalLM
from ..llm.packing import has_state
from ..memory import VideoMemory, ask_each, sampling
from ..model import LongCompress
from .limits import Limits
from .memories import Memories, key_of, memory_key
from .metrics import Metrics
from .reading import Job, Progress, Stopped, Turns, read_memory
from .request import ChatRequest
from .rows import Completion, Question, Rows
from .sources import Source

Result = TypeVar("Result")
RATES = 8  # of frames, whose models are held ready


class Engine:
    """Lives in an event loop, in which all its methods are called."""

    def __init__(self, model: LongCompress, limits: Limits, metrics: Metrics) -> None:
        if not hasattr(model, "llm"):
            raise ValueError(
                f"model must have a language model to answer with, {model.config.name!r} has none"
            )
        self.model, self.limits, self.metrics = model, limits, metrics
        self.memories = Memories(limits)
        self.with_rate = lru_cache(RATES)(self._with_rate)
        self._key_of = lru_cache(RATES)(key_of)  # its weights and settings stay as they are
        self._readers = ThreadPoolExecutor(limits.readers, "longcompress-read")
        self._turns = Turns()
        self._answerer = ThreadPoolExecutor(1, "longcompress-answer")
        self._jobs: dict[str, Job] = {}
        self._questions: list[Question] = []
        self._batch: list[Question] = []  # of them, what is answered now
        self._is_stopped = False
        self._turn: asyncio.Task[None] | None = None
        self._is_batched = isinstance(model.llm, CausalLM) and not has_state(model.llm.lm)

    def stop(self) -> None:
        """Whoever waits, now or later, gets `Stopped`; what is at work ends at the next segment or word."""
        self._is_stopped = True
        for job in self._jobs.values():
            job.stop.set()
        for question in (*self._questions, *self._batch):
            question.is_stopped = True
            if not question.future.done():
                question.future.set_exception(Stopped())

    def close(self) -> None:
        """Stop all that is at work, and wait until it has."""
        self.stop()
        for pool in (self._readers, self._answerer):
            pool.shutdown(wait=True, cancel_futures=True)

    def key(self, chat: ChatRequest, sources: Sequence[Source]) -> str:
        """The name of the memory of a request's media."""
        contents = [(source.kind, source.sha256) for source in sources]
        shown = [chat.thumbnails, chat.patches] if chat.thumbnails or chat.patches else []
        key = self._key_of(self.with_rate(chat.rate_fps))
        return memory_key(key, contents, self._budget(chat), chat.start_s, chat.end_s, *shown)

    def _budget(self, chat: ChatRequest) -> int:
        return chat.budget or min(self.model.config.budget.tokens, self.limits.max_budget)

    async def warm_up(self) -> None:
        """Load the memories that were used last, and let the language model read each: behind a restart a
        question costs what it did before. A question waits for one of them at most."""
        for key in await asyncio.to_thread(self.memories.latest):
            await asyncio.get_running_loop().run_in_executor(self._answerer, self._warm_up, key)

    def _warm_up(self, key: str) -> None:
        memory, model = self.memories.find(key), self.with_rate(None)
        if memory is None or memory.model is not None or memory.identity != model.identity():
            return
        sampled = memory.source.get("media", {})
        if sampled != sampling(model):
            model = self.with_rate(sampled.get("rate_fps"))
        memory.model = model
        self.memories.restore(key, memory)
        memory._read()

    async def memory(
        self, key: str, chat: ChatRequest, sources: Sequence[Source], progress: Progress
    ) -> tuple[VideoMemory, bool]:
        """The memory of a request's media, whose name is `key`, and whether it was there before."""
        if self._is_stopped:
            raise Stopped
        model = self.with_rate(chat.rate_fps)
        memory = await asyncio.to_thread(self.memories.get, key, model)
        if memory is not None:
            self.metrics.memories.labels("kept").inc()
            return memory, True
        job = self._jobs.get(key)
        self.metrics.memories.labels("read" if job is None else "shared").inc()
        if job is None:
            loop = asyncio.get_running_loop()
            job = self._jobs[key] = Job(loop.create_future())
            reading = partial(read_memory, model, sources, chat, self._budget(chat), self.limits, job)
            task = loop.run_in_executor(self._readers, self._read, key, reading)
            task.add_done_callback(lambda done: self._finish(key, job, done))
            self.metrics.reading.inc()
        job.listeners.append(progress)
        try:
            return await asyncio.shield(job.future), False
        finally:
            job.listeners.remove(progress)
            if not job.listeners and not job.future.done():
                job.stop.set()
                self._forget(key, job)

    async def answer(
        self, memory: VideoMemory, chat: ChatRequest, say: Callable[[str], object] | None
    ) -> Completion:
        """The answer to a request about a memory."""
        if self._is_stopped:
            raise Stopped
        future: asyncio.Future[Completion] = asyncio.get_running_loop().create_future()
        question = Question(memory, chat.turns, chat.generation, future, say)
        self._questions.append(question)
        if self._turn is None or self._turn.done():
            self._turn = asyncio.create_task(self._answer_all())
        try:
            done = await future
        finally:
            question.is_stopped = True
        counts = {"prompt": done.num_prompt, "cached": done.num_cached, "answer": done.num_tokens}
        for kind, num in counts.items():
            self.metrics.tokens.labels(kind).inc(num)
        return done

    async def alone(self, call: Callable[[], Result]) -> Result:
        """What a call gives that has the language model for itself."""
        return await asyncio.get_running_loop().run_in_executor(self._answerer, call)

    def _with_rate(self, rate_fps: float | None) -> LongCompress:
        """The model with another frame rate, and this server's limit of pixels."""
        media: dict[str, Any] = {"max_pixels": self.limits.max_pixels}
        sampled = self.model.config.media
        if rate_fps == sampled.rate_fps and not sampled.frames:
            return self.with_rate(None)
        if rate_fps is not None:
            media |= {"rate_fps": rate_fps, "frames": 0}
        return self.model.twin({"media": media})

    # --- reading

    def _read(self, key: str, reading: Callable[[], VideoMemory]) -> VideoMemory:
        with self._turns:
            memory = reading()
        self.metrics.video_s.inc(memory.duration_s)
        self.memories.put(key, memory)
        return memory

    def _finish(self, key: str, job: Job, done: asyncio.Future[VideoMemory]) -> None:
        """Hand the memory, or the error, to all who wait."""
        self.metrics.reading.dec()
        self._forget(key, job)
        if done.cancelled() or job.future.done():
            job.future.cancel()
        elif (error := done.exception()) is None:
            job.future.set_result(done.result())
        elif job.listeners:
            job.future.set_exception(error)

    def _forget(self, key: str, job: Job) -> None:
        if self._jobs.get(key) is job:
            del self._jobs[key]

    # --- answering

    async def _answer_all(self) -> None:
        """Answer until no question waits."""
        loop = asyncio.get_running_loop()
        while batch := self._take():
            self._batch = batch
            self.metrics.batch.observe(len(batch))
            done: list[Completion] | BaseException
            try:
                done = await loop.run_in_executor(self._answerer, self._answer, batch)
            except BaseException as error:  # whatever it is, they must not wait for ever
                done = error
            for number, question in enumerate(batch):
                if question.future.done():
                    continue
                if isinstance(done, BaseException):
                    question.future.set_exception(done)
                else:
                    question.future.set_result(done[number])
            self.metrics.waiting.set(len(self._questions))

    def _take(self) -> list[Question]:
        """The next questions that can be answered together: about a memory, or each about another."""
        self._questions = waiting = [q for q in self._questions if not q.is_stopped]
        if not waiting:
            return []
        first = waiting[0]
        alike = [
            q for q in waiting if q.generation == first.generation and q.memory.model is first.memory.model
        ]
        batch = [q for q in alike if q.memory is first.memory]
        if len(batch) == 1 and self._is_batched and first.memory._prefix is None:
            others = {id(q.memory): q for q in reversed(alike) if q.memory._prefix is None}
            batch = [q for q in alike if others.get(id(q.memory)) is q]
        num = 1 if first.generation.seed is not None or has_state(self.model.llm.lm) else self.limits.batch
        batch = batch[:num]
        self._questions = [q for q in waiting if q not in batch]
        self.metrics.waiting.set(len(waiting))
        return batch

    def _answer(self, batch: list[Question]) -> list[Completion]:
        """Answers, in a thread of their own."""
        generation, memories = batch[0].generation, [q.memory for q in batch]
        model = memories[0].model
        assert model is not None
        llm = model.llm
        longest = generation.max_new_tokens or min(llm.settings.max_new_tokens, self.limits.max_new_tokens)
        rows = Rows(llm, batch)
        options: dict[str, Any] = {"max_new_tokens": longest, "streamer": rows}
        if generation.temperature:
            options |= {"do_sample": True, "temperature": generation.temperature, "top_p": generation.top_p}
            if generation.seed is not None:
                torch.manual_seed(generation.seed)
        cached = [0 if (prefix := memory._prefix) is None else prefix.length for memory in memories]
        dialogues = [q.turns for q in batch]
        if all(memory is memories[0] for memory in memories):
            answers = memories[0].ask_all(dialogues, **options)
        else:
            answers = ask_each(memories, dialogues, **options)
        done = []
        for number, question in enumerate(batch):
            num_prompt = sum(question.memory._num_prompt(question.turns))
            tokens, is_whole = rows.tokens[number], rows.is_done[number]
            done.append(Completion(answers[number], num_prompt, cached[number], len(tokens), is_whole))
        return done
