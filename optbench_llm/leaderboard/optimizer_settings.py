"""What an optimizer takes: its declared lr, and checks that cost no torch for rules of ours."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Any

from optbench_llm.catalog import parse_spec
from optbench_llm.rules.hyperparameters import check_hyperparameters
from optbench_llm.rules.rule import Rule

#: Packages of providers whose own name is another.
_PACKAGES = {"bnb": "bitsandbytes", "hf": "transformers"}


def check_settings(spec: str, settings: dict[str, Any]) -> dict[str, Any]:
    """All hyperparameters of ``spec``: its defaults, overridden by ``settings``.

    Raises:
        ValueError: an unknown name or a value out of range; names the optimizer and what it takes.
    """
    parsed = parse_spec(spec)
    info = parsed.info
    if info is not None and info.rule is not None:
        return check_hyperparameters(parsed.canonical, settings, info.rule_class())
    if info is not None and settings.keys() <= {"lr", "weight_decay"} & info.defaults.keys():
        # The catalog knows them, and a recipe their range.
        return {**info.defaults, **settings}
    # Only a provider's own class knows what else it takes, and that costs the import of torch.
    from optbench_llm.create import validate_hyperparameters

    return validate_hyperparameters(spec, settings)


def canonical_spec(spec: str) -> str:
    """The one spelling of ``spec``: what rows and trials are named by.

    Raises:
        ValueError: unknown; names the nearest.
    """
    parsed = parse_spec(spec)
    if parsed.provider is None:
        return parsed.canonical
    # Only the provider knows how it spells its classes, and that costs the import of torch.
    from optbench_llm import providers

    return providers.canonical_spec(spec)


def declared_lr(spec: str) -> float:
    """The learning rate that catalog or provider declares for ``spec``.

    Raises:
        ValueError: neither has one.
    """
    info = parse_spec(spec).info
    lr = info.lr if info is not None else _provider_defaults(spec).get("lr")
    if isinstance(lr, bool) or not isinstance(lr, int | float):
        raise ValueError(f"{spec} has no default lr: give it one, {{spec: {spec}, lr: 1e-3}}")
    return float(lr)


def takes_weight_decay(spec: str) -> bool:
    """Whether ``spec`` has a hyperparameter of that name."""
    info = parse_spec(spec).info
    if info is not None:
        return "weight_decay" in info.defaults
    return "weight_decay" in _provider_defaults(spec)


def rule_version(spec: str) -> str:
    """Which code makes the numbers of ``spec``: results of another version compare with none.

    Of a rule of ours its own version and those of its wrappers and its companion, such as
    ``lookahead 1+adamw 1``; of a provider's class its package's, such as ``bitsandbytes 0.50.2``,
    or ``unknown`` for one that is not installed as a package.
    """
    parsed = parse_spec(spec)
    info = parsed.info
    if info is None or info.provider is not None:
        provider = parsed.provider or str(info and info.provider).partition(":")[0]
        package = _PACKAGES.get(provider, provider.partition(".")[0])
        try:
            return f"{package} {version(package)}"
        except PackageNotFoundError:
            return f"{package} unknown"
    rule, parts = info.rule_class(), []
    for name in parsed.wrappers:
        parts.append(f"{name} {vars(rule).get('version', Rule.version)}")
        rule = vars(rule)["made_of"]
    parts.append(f"{parsed.name} {rule.version}")
    if rule.companion is not None:
        parts.append(f"{rule.companion.__name__.lower()} {rule.companion.version}")
    return "+".join(parts)


def _provider_defaults(spec: str) -> dict[str, Any]:
    parsed = parse_spec(spec)
    assert parsed.provider is not None
    if parsed.provider == "hf":
        # transformers takes it for any optimizer, and check_taken sees whether it arrived.
        return {"weight_decay": 0.0}
    from optbench_llm.providers import provider_defaults

    return provider_defaults(parsed.provider, parsed.name)
