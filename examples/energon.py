"""Make shards of longcompress readable by Megatron-Energon, and read them with it.

    python examples/energon.py shards          # writes shards/.nv-meta and a .tar.idx beside each tar
    python examples/energon.py shards --read   # reads them with energon (pip install megatron-energon)

What energon needs is known from index.json, so no tar is read. `energon prepare` writes the same files after
reading all of them. A bucket (s3://...) gets the files too; energon itself names it msc://PROFILE/...
"""

import argparse
import json
import sqlite3
import struct
import uuid
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from longcompress.train import decode
from longcompress.train.shards.index import Entry, Index, load_index
from longcompress.train.shards.remote import placing

META = ".nv-meta"
# Without a decoder each part stays the bytes that it is.
DATASET = "__module__: megatron.energon\n__class__: CrudeWebdataset\ndecoder: null\n"
TABLES = """
CREATE TABLE samples (tar_file_id INTEGER NOT NULL, sample_key TEXT NOT NULL UNIQUE,
    sample_index INTEGER NOT NULL, byte_offset INTEGER, byte_size INTEGER);
CREATE TABLE sample_parts (tar_file_id INTEGER, sample_index INTEGER, part_name TEXT,
    content_byte_offset INTEGER, content_byte_size INTEGER);
CREATE INDEX idx_samples_by_tar_and_idx ON samples(tar_file_id, sample_index);
CREATE INDEX idx_sample_parts_seq ON sample_parts(tar_file_id, sample_index, content_byte_offset);
CREATE INDEX idx_sample_parts_full ON sample_parts(tar_file_id, sample_index, part_name, content_byte_offset,
    content_byte_size);
"""


def prepare(index: Index, version: str = "7.4.1") -> None:
    """Write what energon needs beside the shards; `version` is the energon whose layout it is."""
    counts = [sum(entry.shard == number for entry in index.entries) for number in range(len(index.shards))]
    names = [shard.name for shard in index.shards]
    info = {"energon_version": version, "shard_counts": dict(zip(names, counts, strict=True))}
    split = ["split_parts:", "  train:", *(f"  - {name}" for name in names), "exclude: []"]
    identity = uuid.uuid5(uuid.NAMESPACE_OID, "".join(shard.sha256 for shard in index.shards))
    meta = index.folder / META
    if isinstance(meta, Path):
        meta.mkdir(exist_ok=True)
    with TemporaryDirectory() as folder, sqlite3.connect(Path(folder) / "index.sqlite") as database:
        database.executescript(TABLES)
        for number, name in enumerate(names):
            ends = []
            for i, (entry, start, end) in enumerate(places(index, number)):
                ends.append(end)
                database.execute(
                    "INSERT INTO samples VALUES (?,?,?,?,?)", (number, entry.key, i, start, end - start)
                )
                rows = sorted(entry.members.items(), key=lambda member: member[1].offset)
                database.executemany(
                    "INSERT INTO sample_parts VALUES (?,?,?,?,?)",
                    [(number, i, part, member.offset, member.num_bytes) for part, member in rows],
                )
            with placing(index.folder, f"{name}.idx") as path:
                path.write_bytes(struct.pack(f"<{len(ends) + 1}Q", 0, *ends))
        database.commit()
        files = {
            "dataset.yaml": DATASET.encode(),
            "split.yaml": ("\n".join(split) + "\n").encode(),
            "index.sqlite": (Path(folder) / "index.sqlite").read_bytes(),
            "index.uuid": str(identity).encode(),
            ".info.json": json.dumps(info, indent=2).encode(),  # the last: it says that all is there
        }
    for name, data in files.items():
        with placing(meta, name) as path:
            path.write_bytes(data)


def places(index: Index, shard: int) -> Iterator[tuple[Entry, int, int]]:
    """(sample, first byte, end) of a shard's samples; each one's headers begin where the one before ended."""
    start = 0
    for entry in (entry for entry in index.entries if entry.shard == shard):
        last = max(member.offset + member.num_bytes for member in entry.members.values())
        end = -(-last // 512) * 512
        yield entry, start, end
        start = end


def read(path: str) -> Iterator[tuple[str, object]]:
    """(key, content) of each sample by energon: features as `longcompress.train.decode` reads, or bytes."""
    from megatron.energon import (
        Cooker,
        DefaultTaskEncoder,
        Sample,
        WorkerConfig,
        basic_sample_keys,
        edataclass,
        get_loader,
        get_train_dataset,
        stateless,
    )

    @edataclass
    class Item(Sample):
        content: object

    @stateless
    def cook(raw: dict) -> Item:
        is_features = any(name.endswith(".safetensors") for name in raw)
        parts = {name: data for name, data in raw.items() if not name.startswith("__")}
        content = decode({"__key__": raw["__key__"], **parts}) if is_features else parts
        return Item(**basic_sample_keys(raw), content=content)

    class Encoder(DefaultTaskEncoder):
        cookers = [Cooker(cook)]  # noqa: RUF012 (energon's way)

        def batch(self, samples: list) -> list:
            return samples

    dataset = get_train_dataset(
        path, worker_config=WorkerConfig(rank=0, world_size=1, num_workers=0), batch_size=1, repeat=False,
        shuffle_buffer_size=None, max_samples_per_sequence=None, task_encoder=Encoder(),
    )  # fmt: skip
    for batch in get_loader(dataset):
        for item in batch:
            yield item.__key__, item.content


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shards", help="folder or bucket of indexed shards")
    parser.add_argument("--read", action="store_true", help="read them with energon")
    options = parser.parse_args(words)
    index = load_index(options.shards)
    prepare(index)
    print(f"{options.shards}: {len(index)} samples in {len(index.shards)} shards are ready for energon")
    if options.read:
        keys = sorted(key for key, _ in read(options.shards))
        print(f"energon read {len(keys)} samples, each once: {keys == sorted(e.key for e in index.entries)}")


if __name__ == "__main__":
    main()
