"""What comes from the Hugging Face hub and goes there; where it does not, a clear answer."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

TIMEOUT_S = 10.0
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")


def looks_like_hub_id(name: str) -> bool:
    """Whether ``name`` has the form ``name`` or ``owner/name``."""
    return HUB_ID.fullmatch(name) is not None


def snapshot(
    repo_id: str, kind: Literal["model", "dataset"], patterns: Sequence[str], offline_hint: str
) -> Path:
    """The folder of a repository's newest revision; its name is the revision's hash.

    Downloads what is missing. Without a network (or with ``HF_HUB_OFFLINE=1``), what was
    downloaded before is used.

    Raises:
        ValueError: there is no such repository, or it was never downloaded and cannot be now;
            ends with ``offline_hint``.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(
                repo_id,
                repo_type=kind,
                allow_patterns=list(patterns),
                ignore_patterns=["onnx/*", "openvino/*", "coreml/*", "original/*"],
                etag_timeout=TIMEOUT_S,
            )
        )
    except LocalEntryNotFoundError as error:
        raise ValueError(
            f"{kind} {repo_id!r} is neither a path here nor in the local hub cache, and the hub "
            f"cannot be reached. {offline_hint} (Once downloaded, a hub id also works offline.)"
        ) from error
    except (HfHubHTTPError, HFValidationError) as error:
        raise ValueError(
            f"the hub does not give {kind} {repo_id!r}: {_reason(error)}. Check the id; for a "
            f"gated one log in with `hf auth login`. {offline_hint}"
        ) from error


def check_login(option: str, token: str | None = None) -> None:
    """Find out, before any work, whether the hub knows who wants to put something there.

    Raises:
        ValueError: nobody is logged in, or the hub cannot be reached; begins with ``option``.
    """
    from huggingface_hub import HfApi

    with _told(option):
        HfApi(token=token).whoami()


def upload(
    folder: Path,
    repo: str,
    kind: Literal["model", "dataset", "space"],
    option: str,
    *,
    message: str,
    private: bool | None = None,
    token: str | None = None,
    ignore: Sequence[str] = (),
) -> str:
    """Put the files of a folder into a repository, which is made if needed; returns its address.

    What is there is replaced, file by file. A Space is a static one.

    Raises:
        ValueError: the hub refuses, or cannot be reached; begins with ``option``.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    with _told(option):
        url = api.create_repo(
            repo,
            repo_type=kind,
            private=private,
            exist_ok=True,
            space_sdk="static" if kind == "space" else None,
        )
        api.upload_folder(
            repo_id=url.repo_id,
            repo_type=kind,
            folder_path=folder,
            ignore_patterns=list(ignore),
            commit_message=message,
        )
    return str(url)


@contextmanager
def _told(option: str) -> Iterator[None]:
    from huggingface_hub.errors import (
        HTTPError,  # pyright: ignore[reportPrivateImportUsage]: of whatever it asks the hub with
        LocalTokenNotFoundError,
        OfflineModeIsEnabled,
    )

    try:
        yield
    except LocalTokenNotFoundError:
        raise ValueError(
            f"{option}: nobody is logged in to the hub; hf auth login, or set HF_TOKEN"
        ) from None
    except (HTTPError, OfflineModeIsEnabled) as error:
        raise ValueError(f"{option}: the hub does not take it: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
