"""Counts and times of a server, in Prometheus' text format."""

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)


class Metrics:
    """Each server has its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        own: Any = {"namespace": "longcompress", "registry": self.registry}
        self.requests = Counter("requests", "Requests by path and status", ["path", "status"], **own)
        about = "From request to end of the answer"
        self.request_s = Histogram("request_seconds", about, ["path"], buckets=SECONDS, **own)
        self.active = Gauge("active_requests", "Requests at work or waiting", **own)
        self.reading = Gauge("videos_reading", "Videos that are read or wait for it", **own)
        self.waiting = Gauge("questions_waiting", "Questions that wait for an answer", **own)
        about = "Memories by where they came from: read, kept or shared"
        self.memories = Counter("memories", about, ["origin"], **own)
        self.video_s = Counter("video_seconds", "Seconds of media that were read", **own)
        self.tokens = Counter("tokens", "Tokens by kind: prompt, cached or answer", ["kind"], **own)
        sizes = (1, 2, 4, 8, 16, 32)
        self.batch = Histogram("batch_questions", "Questions answered together", buckets=sizes, **own)
        self.live = Gauge("live_sessions", "Live sessions, also those whose connection was cut", **own)
        about = "Frames and stretches of audio that came too fast"
        self.live_dropped = Counter("live_dropped", about, ["what"], **own)
        about = "From a frame's arrival to its events"
        self.live_s = Histogram("live_seconds", about, buckets=SECONDS, **own)

    def text(self) -> bytes:
        """All of them."""
        return generate_latest(self.registry)
