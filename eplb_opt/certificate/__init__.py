"""Evidence for lower bounds and optima that anyone can check, in exact arithmetic and no solver."""

from eplb_opt.certificate.budget import CheckBudget, TooLargeToCheckError
from eplb_opt.certificate.document import Verdict, verify_document
from eplb_opt.certificate.moves import needs_transfers
from eplb_opt.certificate.parsing import parse_document
from eplb_opt.certificate.proof import check_bound
from eplb_opt.certificate.statement import CertificateError, Trust

__all__ = [
    "CertificateError",
    "CheckBudget",
    "TooLargeToCheckError",
    "Trust",
    "Verdict",
    "check_bound",
    "needs_transfers",
    "parse_document",
    "verify_document",
]
