"""How far a row on a GPU may be from the same row on the CPU."""

from __future__ import annotations

from typing import Any

#: Differences are of the displacement p - p0, in its max-norm.
DISTANCE = 1e-5
#: Newton-Schulz in bfloat16, which a CPU without such instructions does in fp32.
NEWTON_SCHULZ = 3e-2
#: Of elements that differ by more than DISTANCE, and of 8-bit codes that differ by one.
SHARE = 0.01
#: In a training step that nothing waits for; some rows read their conclusion once.
SYNCS = 1

NEWTON_SCHULZ_ROWS = ("muon", "scion")
#: A sign, or which of two branches an element takes, hangs on the last bit where it is nearly 0.
SIGN_ROWS = (
    "cautious-adamw",
    "cautious-lion",
    "grams",
    "lion",
    "rprop",
    "signum",
    "sophia",
    "sophia-h",
    "sophia-lmflow",
    "yogi",
)
#: Values rounded to 16 or 8 bits: a last bit that differs may move them to the next code.
ROUNDED_ROWS = ("adamw-bf16",)
#: ``torch.linalg.eigh`` and ``qr`` wait for the device themselves.
FACTORISING_ROWS = ("shampoo", "soap")


def by_share(spec: str) -> bool:
    """Whether a row may stray in a few elements, by any amount."""
    name, _, storage = spec.partition("@")
    return bool(storage) or name in SIGN_ROWS or name in ROUNDED_ROWS


def findings_of(spec: str, engine: str, numbers: dict[str, Any]) -> list[str]:
    """What of a row's numbers is beyond its tolerance; see `row_process` for the numbers."""
    name = spec.partition("@")[0]
    found = []

    def hold(what: str, limit: float) -> None:
        # A NaN is not within its limit either.
        if not numbers[what] <= limit:
            found.append(f"{spec}, {engine}: {what} {numbers[what]:.3g}, at most {limit:g}")

    if by_share(spec):
        hold("share_beyond", SHARE)
    else:
        hold("distance", NEWTON_SCHULZ if name in NEWTON_SCHULZ_ROWS else DISTANCE)
    if "codes_differing" in numbers:
        hold("codes_differing", SHARE)
        hold("codes_apart", 1)
    if name not in FACTORISING_ROWS and "syncs" in numbers:
        hold("syncs", SYNCS)
    return found
