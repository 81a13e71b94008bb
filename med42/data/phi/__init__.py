"""The PHI gate: looks for HIPAA's 18 Safe Harbor identifiers in a source's rows, and measures itself while it does.

The order of reading: `categories` (what is looked for), `recogniser` and `recognisers`, `names`, `places` (how), `detector` (finding and
masking), `gate` (what becomes of a row, and the account), `plants` and `measure` (what is missed), `pages`. docs/phi.md has the figures.
"""

from med42.data.phi.categories import CATEGORIES, SAFE_HARBOR
from med42.data.phi.detector import Detector, Finding, detector_for, detector_packages, masked
from med42.data.phi.gate import Account, PhiGate, cleaned, merged_reports, phi_report, recall, stop_on
from med42.data.phi.pages import phi_blocks

__all__ = [
    "CATEGORIES", "SAFE_HARBOR", "Account", "Detector", "Finding", "PhiGate", "cleaned", "detector_for", "detector_packages",
    "masked", "merged_reports", "phi_blocks", "phi_report", "recall", "stop_on",
]
