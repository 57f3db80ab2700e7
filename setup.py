from pathlib import Path

from setuptools import find_packages, setup

plot = ["matplotlib>=3.8"]
flash = ["flash-attn>=2.8; platform_system == 'Linux'"]
xformers = ["xformers>=0.0.33; platform_system == 'Linux' and platform_machine == 'x86_64'"]
triton = ["triton>=3.4; platform_system == 'Linux'"]
web = ["fsspec>=2024.6", "aiohttp>=3.9", "requests>=2.31"]
train = ["tensorboard>=2.15"]
evaluate = ["pycocoevalcap>=1.2"]  # 104 MB: the METEOR program; it also needs Java
ray = ["ray>=2.40"]
serve = [
    "starlette>=0.46",
    "uvicorn>=0.35",
    "httpx>=0.27",
    "python-multipart>=0.0.18",
    "prometheus-client>=0.20",
    "websockets>=13",
]
dev = [
    "num2words>=0.5",  # SmolVLM's prompt writes a number in words
    "sentencepiece>=0.2",  # LLaMA tokenizers that are a tokenizer.model alone
    "protobuf>=4",
    "pytest>=8", "pytest-xdist>=3.5", "hypothesis>=6.100", "mypy>=1.11", "ruff>=0.6",
    "openai>=1.60",  # the client that the server is tested with
    "types-PyYAML", "types-tqdm", "onnx>=1.16",
    "scikit-learn>=1.4",  # its average precision is what ours is held against
    "s3fs>=2024.6", "moto[s3]>=5", "flask", "flask-cors",  # shards in S3, and a server of it
    "imageio-ffmpeg>=0.5",  # an ffmpeg command where the machine has none: what decoding is held against
    "kaldi-native-fbank>=1.20,<1.23",  # 1.23 refuses 128 bands of 512 points, which BEATs has
]  # fmt: skip

setup(
    name="longcompress",
    version="0.1.0",
    description="Hours of video with audio as a fixed, declared number of tokens that a language model reads",
    long_description=Path("README.md").read_text(encoding="utf8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["longcompress", "longcompress.*"]),
    package_data={
        "longcompress": ["py.typed", "weights/*/*", "weights/*/*/*"],
        "longcompress.serve": ["static/*"],
        "longcompress.train": ["recipes/*.yaml"],
    },
    install_requires=[
        "torch>=2.9",
        "transformers>=5.18,<6",
        "peft>=0.18",
        "accelerate>=1.10",
        "tokenizers>=0.22",
        "av>=17.1",
        "numpy>=1.26",
        "einops>=0.8",
        "scipy>=1.15",
        "safetensors>=0.8",
        "huggingface_hub>=1.0",
        "webdataset>=1.0",
        "jsonargparse[signatures]>=4.49",
        "packaging>=20",
        "pyyaml>=6",
        "pysubs2>=1.7",
        "tqdm>=4.66",
        "rich>=13",
    ],
    extras_require={
        "plot": plot,
        "web": web,
        "train": train,
        "eval": evaluate,
        "ray": ray,
        "serve": serve,
        "triton": triton,
        "flash": flash,
        "xformers": xformers,
        "dev": [*dev, *plot, *web, *train, *ray, *serve, *triton, *xformers],
    },
    entry_points={
        "console_scripts": ["longcompress = longcompress.cli.main:main"],
        "lmms_eval.models": ["longcompress = longcompress.eval.lmms.plugin:manifest"],  # read by lmms-eval
    },
)
