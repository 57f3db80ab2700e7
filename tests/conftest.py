"""Files with slow tests come first, so that several test processes end at about one time."""

import os

if os.environ.get("TRITON_INTERPRET") == "1":
    # Products under the interpreter are those of OpenBLAS, which reads this when NumPy is imported. With its
    # kernels for AVX2 the bits of a row depend on its place in the matrix; on a GPU they do not.
    os.environ.setdefault("OPENBLAS_CORETYPE", "Sandybridge")


def pytest_collection_modifyitems(items):
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
