"""Counts and times of a server, in Prometheus' text format."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)


class Metrics:
    """Each server has its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        name, at = "longcompress_", self.registry
        self.requests = Counter(
            f"{name}requests", "Requests by path and status", ["path", "status"], registry=at
        )
        self.request_s = Histogram(
            f"{name}request_seconds",
            "From request to end of the answer",
            ["path"],
            registry=at,
            buckets=SECONDS,
        )
        self.active = Gauge(f"{name}active_requests", "Requests at work or waiting", registry=at)
        self.reading = Gauge(f"{name}videos_reading", "Videos that are read or wait for it", registry=at)
        self.waiting = Gauge(f"{name}questions_waiting", "Questions that wait for an answer", registry=at)
        self.memories = Counter(
            f"{name}memories",
            "Memories by where they came from: read, kept or shared",
            ["origin"],
            registry=at,
        )
        self.video_s = Counter(f"{name}video_seconds", "Seconds of media that were read", registry=at)
        self.tokens = Counter(
            f"{name}tokens", "Tokens by kind: prompt, cached or answer", ["kind"], registry=at
        )
        self.batch = Histogram(
            f"{name}batch_questions", "Questions answered together", registry=at, buckets=(1, 2, 4, 8, 16, 32)
        )
        self.live = Gauge(
            f"{name}live_sessions", "Live sessions, also those whose connection was cut", registry=at
        )
        self.live_dropped = Counter(
            f"{name}live_dropped", "Frames and stretches of audio that came too fast", ["what"], registry=at
        )
        self.live_s = Histogram(
            f"{name}live_seconds", "From a frame's arrival to its events", registry=at, buckets=SECONDS
        )

    def text(self) -> bytes:
        """All of them."""
        return generate_latest(self.registry)
