"""Where a published model is: a folder on this machine, or an id of the Hugging Face hub that is downloaded once."""

import re
from pathlib import Path

from nanochat.errors import CheckpointNotFound, MissingDependency, UserError

# config, tokenizer, chat template and weights; no weights in other formats
WANTED_FILES = ("*.json", "*.jinja", "*.txt", "*.safetensors")
_WHAT = "a folder with config.json and model.safetensors, or OWNER/NAME of the Hugging Face hub"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def fetch(folder_or_id: str) -> Path:
    """The folder itself, or the downloaded copy of a hub id such as ibm-granite/granite-4.0-h-350m.

    A folder goes first. Raises CheckpointNotFound when it is neither, MissingDependency without huggingface_hub,
    UserError when the hub cannot be reached or refuses.
    """
    if not folder_or_id.strip():
        raise CheckpointNotFound("No model after 'hf:'", hint=f"name {_WHAT}, e.g. hf:ibm-granite/granite-4.0-h-350m")
    folder = Path(folder_or_id).expanduser()
    if folder.is_dir():
        return folder
    if folder.is_file():
        raise CheckpointNotFound(f"{folder} is a file, not a folder", hint=f"hf: takes {_WHAT}")
    if not _HUB_ID.fullmatch(folder_or_id):
        raise CheckpointNotFound(f"Folder not found: {folder_or_id!r}",
                                 hint=f"hf: takes {_WHAT}")
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError
    except ModuleNotFoundError as missing:
        raise MissingDependency("No module named 'huggingface_hub': downloading a model needs it",
                                hint="uv pip install 'nanochat-rag[hf]', or give a folder: hf:FOLDER") from missing
    try:
        return Path(snapshot_download(folder_or_id, allow_patterns=list(WANTED_FILES)))
    # LocalEntryNotFoundError and OfflineModeIsEnabled are OSErrors, bad names ValueErrors
    except (OSError, ValueError, HfHubHTTPError) as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UserError(
            f"{folder_or_id} is no folder and cannot be downloaded: {reason}",
            hint=f"on a machine with network: hf download {folder_or_id} --local-dir FOLDER, then use hf:FOLDER",
        ) from error
