"""Snapshots of Hugging Face hub repositories, with a clear answer where there is no network."""

from __future__ import annotations

import re
from collections.abc import Sequence
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
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"the hub does not give {kind} {repo_id!r}: {reason}. Check the id; for a gated one "
            f"log in with `hf auth login`. {offline_hint}"
        ) from error
