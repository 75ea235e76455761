"""All implementations of one optimizer side by side: do they agree, how fast, what do they keep?"""

from optbench_llm.audit.compare import Audit, Finding, audit
from optbench_llm.audit.implementations import comparison_for

__all__ = ["Audit", "Finding", "audit", "comparison_for"]
