"""An export on the Hugging Face hub. Imports huggingface_hub where it is used: it is of the extra `hub`."""

from importlib.util import find_spec
from pathlib import Path

from model.errors import ModelError


def refuse_upload(repository: str) -> None:
    """Check what can be checked before an export is made.

    Raises:
        ModelError: the extra or a token is missing, or the repository's name is none.
    """
    if find_spec("huggingface_hub") is None:
        raise ModelError("--push_to_hub: huggingface_hub is not installed; pip install 'diptych[hub]'")
    from huggingface_hub import get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise ModelError(f"--push_to_hub {repository}: {' '.join(str(error).split())}") from None
    if repository.count("/") != 1:
        raise ModelError(f"--push_to_hub {repository}: OWNER/NAME is wanted")
    if get_token() is None:
        raise ModelError("--push_to_hub: no token; run `hf auth login`, or set HF_TOKEN to one that may write")


def upload(directory: Path, repository: str) -> str:
    """Create the repository, private unless it is there already, and commit the directory to it.

    Returns:
        Its address.

    Raises:
        ModelError: the server refuses or cannot be reached; the directory is as it was.
    """
    import httpx2  # what huggingface_hub asks the server with
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    api = HfApi()
    try:
        address = api.create_repo(repository, exist_ok=True, private=True, repo_type="model")
        api.upload_folder(
            repo_id=repository, folder_path=directory, repo_type="model", commit_message="Upload an encoder"
        )
    except (HfHubHTTPError, httpx2.HTTPError, OfflineModeIsEnabled, OSError) as error:
        said = getattr(error, "server_message", None) or str(error)
        raise ModelError(
            f"--push_to_hub {repository}: {' '.join(said.split())[:300]}; {directory} is complete, and `hf upload "
            f"{repository} {directory}` tries again"
        ) from None
    return str(address)
