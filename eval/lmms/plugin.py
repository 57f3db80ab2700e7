"""What lmms-eval finds under the entry point `lmms_eval.models`: our model's name, and where its class is.

lmms-eval reads this at every start, for whatever model it is asked, so nothing else is imported here.
"""

from typing import Any


def manifest() -> Any:
    """lmms_eval's ModelManifest of model `longcompress`."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest("longcompress", simple_class_path="longcompress.eval.lmms.model.LongCompressModel")
